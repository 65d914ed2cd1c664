#define _POSIX_C_SOURCE 199309L
#include "call.h"

#include <fastbn/fastbn.h>
#include <string.h>

int main(void) {
  float x[SIZE] = {1}, kernel[SIZE * SIZE] = {1}, bias[SIZE] = {1}, y[SIZE];
  fbn_dense d;
  fbn_exec exec;
  memset(&d, 0, sizeof d);
  memset(&exec, 0, sizeof exec);
  d.struct_size = sizeof d;
  d.rows = 1;
  d.in_features = d.out_features = SIZE;
  d.activation = FBN_RELU;
  exec.struct_size = sizeof exec;
  exec.num_threads = 1;
  if (fbn_dense_forward(&d, x, kernel, bias, y, &exec) != FBN_OK || y[0] != 2) return 1;
  REPORT(fbn_dense_forward(&d, x, kernel, bias, y, &exec));
  return 0;
}
