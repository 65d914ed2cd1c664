// Programs through the C interface, as a host without Python drives them: training, and indices that are refused.
#include <cmath>
#include <string>
#include <vector>

#include "check.hpp"
#include "networks.hpp"

using namespace fastbn;

namespace {

const float kX[4][3] = {{1, 0, 0}, {0, 1, 0}, {1, 0, 1}, {0, 1, 1}};
const int32_t kY[4] = {0, 1, 0, 1};

void test_training() {
  fbn_program* program = networks::dense_program();
  fbn_step_result first{}, last{};
  CHECK(fbn_program_train(program, kX, kY, nullptr, 4, &first, nullptr) == FBN_OK);
  for (int step = 0; step < 50; ++step) CHECK(fbn_program_train(program, kX, kY, nullptr, 4, &last, nullptr) == FBN_OK);
  CHECK(std::isfinite(first.loss) && last.loss < first.loss / 4 && last.correct == 4);
  float all[4][2], some[2][2];
  const int64_t rows[2] = {3, 0};
  CHECK(fbn_program_predict(program, kX, nullptr, 4, &all[0][0], nullptr) == FBN_OK);
  CHECK(fbn_program_predict(program, kX, rows, 2, &some[0][0], nullptr) == FBN_OK);
  CHECK(some[0][0] == all[3][0] && some[0][1] == all[3][1] && some[1][0] == all[0][0]);
  fbn_program_destroy(program);
}

void test_negative_index() {
  fbn_program* program = networks::dense_program();
  const int64_t rows[2] = {0, -1};
  float out[4] = {7, 7, 7, 7};
  CHECK(fbn_program_train(program, kX, kY, rows, 2, nullptr, nullptr) == FBN_INVALID_VALUE);
  CHECK(std::string(fbn_last_error()).find("index[1] = -1") != std::string::npos);
  CHECK(fbn_program_get_iteration(program) == 0);
  CHECK(fbn_program_evaluate(program, kX, kY, rows, 2, nullptr, nullptr) == FBN_INVALID_VALUE);
  CHECK(fbn_program_predict(program, kX, rows, 2, out, nullptr) == FBN_INVALID_VALUE);
  CHECK(out[0] == 7 && out[3] == 7);
  fbn_program_destroy(program);
}

}  // namespace

int main() {
  test_training();
  test_negative_index();
  return check::report("program_test");
}
