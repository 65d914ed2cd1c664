// Writes the seeds of the fuzz target into a folder: numbers small enough that most of them are accepted, a dozen of
// inputs for each operator and each instruction set, and programs of every length.
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace {

uint64_t state = 1;
uint8_t next() {  // an LCG (Knuth's MMIX)
  state = state * 6364136223846793005u + 1442695040888963407u;
  return static_cast<uint8_t>(state >> 56);
}

void write(const std::filesystem::path& file, const std::vector<uint8_t>& bytes) {
  std::ofstream(file, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

// `odd` in 256 of the bytes may be anything; the others stay below what stands for odd values.
std::vector<uint8_t> body(std::vector<uint8_t> head, size_t size, int odd) {
  while (head.size() < size) {
    const uint8_t value = next();
    head.push_back(next() < odd ? value : static_cast<uint8_t>(value % 120));
  }
  return head;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
    return 2;
  }
  const std::filesystem::path folder = argv[1];
  std::filesystem::create_directories(folder);
  for (uint8_t set = 0; set < 4; ++set)
    for (uint8_t op = 0; op < 10; ++op)
      for (int i = 0; i < 12; ++i)
        write(folder / ("operator-" + std::to_string(op) + "-" + std::to_string(set) + "-" + std::to_string(i)),
              body({0, set, op}, 64, i < 8 ? 0 : 24));
  for (uint8_t layers = 0; layers < 10; ++layers)
    for (int i = 0; i < 24; ++i)
      write(folder / ("program-" + std::to_string(layers) + "-" + std::to_string(i)),
            body({255, layers}, 64 + 40u * layers + 80, i < 16 ? 0 : 12));
}
