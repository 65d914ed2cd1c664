/* A convolution with relu, forward and backward, in memory of the caller, on the caller's threads.
 *
 * operators FILE writes y, dx, dkernel and dbias into FILE, as float32. */
#include <fastbn/fastbn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 4, SIZE = 32, IN = 16, OUT = 32, WINDOW = 3, THREADS = 3 };
enum { X = BATCH * SIZE * SIZE * IN, Y = BATCH * SIZE * SIZE * OUT, KERNEL = WINDOW * WINDOW * IN * OUT };

static int check(fbn_status status) {
  if (status != FBN_OK) {
    fprintf(stderr, "%s\n", fbn_last_error());
    exit(1);
  }
  return 0;
}

/* ------------------------------------------------- the host's threads: each takes every THREADS-th of the tasks */

typedef struct {
  int64_t count;
  fbn_task task;
  void* argument;
  int32_t lane;
} share;

static int phases = 0;

static void* run_share(void* object) {
  const share* s = object;
  for (int64_t i = s->lane; i < s->count; i += THREADS) s->task(i, s->lane, s->argument);
  return NULL;
}

static void parallel_for(void* host, int64_t count, fbn_task task, void* argument) {
  pthread_t threads[THREADS];
  share shares[THREADS];
  ++*(int*)host;
  for (int32_t lane = 0; lane < THREADS; ++lane) {
    shares[lane] = (share){count, task, argument, lane};
    if (pthread_create(&threads[lane], NULL, run_share, &shares[lane]) != 0) abort();
  }
  for (int32_t lane = 0; lane < THREADS; ++lane) pthread_join(threads[lane], NULL);
}

/* ------------------------------------------------------------------------------------------------------- the call */

static float* numbers(int64_t count, int64_t step) {
  float* array = malloc((size_t)count * sizeof(float));
  if (array == NULL) abort();
  for (int64_t i = 0; i < count; ++i) array[i] = (float)(i * step % 101) / 64.0f - 0.75f;
  return array;
}

int main(int argc, char** argv) {
  if (argc != 2) return fprintf(stderr, "usage: operators FILE\n"), 2;
  if (fbn_abi() != FBN_ABI) return fprintf(stderr, "libfastbn has another binary interface\n"), 2;
  float *x = numbers(X, 37), *kernel = numbers(KERNEL, 53), *bias = numbers(OUT, 7), *dy = numbers(Y, 29);
  float* results = malloc((size_t)(Y + X + KERNEL + OUT) * sizeof(float));
  if (results == NULL) return 1;
  float *y = results, *dx = y + Y, *dkernel = dx + X, *dbias = dkernel + KERNEL;

  fbn_conv2d d;
  memset(&d, 0, sizeof d);
  d.struct_size = sizeof d;
  d.batch = BATCH;
  d.height = d.width = SIZE;
  d.in_channels = IN;
  d.out_channels = OUT;
  d.kernel_height = d.kernel_width = WINDOW;
  d.stride_height = d.stride_width = d.dilation_height = d.dilation_width = d.groups = 1;
  d.padding = FBN_PADDING_SAME;
  d.activation = FBN_RELU;

  /* How much memory the two calls need on THREADS threads, then the calls, which allocate nothing. */
  fbn_exec exec;
  size_t forward = 0, backward = 0;
  memset(&exec, 0, sizeof exec);
  exec.struct_size = sizeof exec;
  exec.num_threads = THREADS;
  exec.parallel_for = parallel_for;
  exec.parallel_for_host = &phases;
  exec.workspace_query = &forward;
  check(fbn_conv2d_forward(&d, x, kernel, bias, y, &exec));
  exec.workspace_query = &backward;
  check(fbn_conv2d_backward(&d, dy, x, kernel, y, dx, dkernel, dbias, &exec));
  exec.workspace_query = NULL;
  exec.workspace_size = ((forward > backward ? forward : backward) / 64 + 1) * 64;
  exec.workspace = aligned_alloc(64, exec.workspace_size);
  if (exec.workspace == NULL) return 1;

  check(fbn_conv2d_forward(&d, x, kernel, bias, y, &exec));
  check(fbn_conv2d_backward(&d, dy, x, kernel, y, dx, dkernel, dbias, &exec));

  FILE* file = fopen(argv[1], "wb");
  if (file == NULL || fwrite(results, sizeof(float), Y + X + KERNEL + OUT, file) != Y + X + KERNEL + OUT) return 1;
  fclose(file);
  printf("fastbn %s: %zu bytes of workspace, %d phases on the caller's %d threads\n", fbn_version(),
         exec.workspace_size, phases, THREADS);

  free(exec.workspace);
  free(results);
  free(dy);
  free(bias);
  free(kernel);
  free(x);
  return 0;
}
