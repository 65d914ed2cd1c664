// The C interface under libFuzzer: the first byte of an input says whether the rest describes an operator or a program.
#include "input.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  if (input.byte() < 224) {
    fuzz::fuzz_operator(input);
  } else {
    fuzz::fuzz_program(input);
  }
  return 0;
}
