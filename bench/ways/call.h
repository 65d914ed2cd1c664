/* The call that every way makes: y = relu(x kernel + bias), x (1, 16), kernel (16, 16), on one thread. */
#ifndef FASTBN_BENCH_CALL_H
#define FASTBN_BENCH_CALL_H

#include <stdint.h>
#include <stdio.h>
#include <time.h>

enum { SIZE = 16, CALLS = 20000, RUNS = 50 };

static double seconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Prints the microseconds of a call in the fastest of RUNS runs of CALLS calls. */
#define REPORT(CALL)                                   \
  do {                                                 \
    double best = 1e9;                                 \
    for (int run = 0; run < RUNS; ++run) {             \
      const double start = seconds_now();              \
      for (int i = 0; i < CALLS; ++i) CALL;            \
      const double taken = seconds_now() - start;      \
      if (taken < best) best = taken;                  \
    }                                                  \
    printf("%.9f\n", best / CALLS * 1e6);              \
  } while (0)

#endif
