#include "call.h"

#include <fastbn/fastbn.hpp>
#include <vector>

int main() {
  std::vector<float> x(SIZE, 0.0f), kernel(SIZE * SIZE, 0.0f), bias(SIZE, 0.0f), y(SIZE);
  x[0] = kernel[0] = bias[0] = 1;
  fastbn::Dense d;
  d.rows = 1;
  d.in_features = d.out_features = SIZE;
  d.activation = FBN_RELU;
  const fastbn::Exec exec(1);
  fastbn::dense_forward(d, x, kernel, bias, y, exec);
  if (y[0] != 2) return 1;
  REPORT(fastbn::dense_forward(d, x, kernel, bias, y, exec));
  return 0;
}
