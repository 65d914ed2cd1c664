// Trains a CNN on MNIST: Conv2D 32 3x3 relu - Conv2D 64 3x3 relu - MaxPool 2x2 - Dropout 0.25 - Dense 10, with Adam, in
// batches of 128.
//
// train_mnist SEED EPOCHS WEIGHTS [ORDER] reads the four IDX files of MNIST (unpacked) from the folder FASTBN_DATA, and
// writes the weights into the file WEIGHTS as float32, parameter by parameter: those that SEED gives, then those after
// EPOCHS. ORDER is a file of int64: for each epoch the order in which it takes the samples; without it each epoch is
// shuffled here. The same seed and order give the same weights as in Python, bit by bit.
#include <algorithm>
#include <cstdlib>
#include <exception>
#include <fastbn/fastbn.hpp>
#include <fstream>
#include <iostream>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr int64_t kBatch = 128;

// An IDX file of bytes: magic number 0x00000800 + rank, extents, data; all numbers big-endian.
std::vector<uint8_t> read_idx(const std::string& path, uint32_t rank) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  const auto number = [&] {
    uint8_t b[4] = {};
    file.read(reinterpret_cast<char*>(b), 4);
    return uint32_t{b[0]} << 24 | uint32_t{b[1]} << 16 | uint32_t{b[2]} << 8 | uint32_t{b[3]};
  };
  if (number() != 0x800 + rank) throw std::runtime_error(path + " is not an IDX file of rank " + std::to_string(rank));
  size_t size = 1;
  for (uint32_t axis = 0; axis < rank; ++axis) size *= number();
  std::vector<uint8_t> bytes(size);
  file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(size));
  if (!file) throw std::runtime_error(path + " ends early");
  return bytes;
}

struct Images {
  std::vector<float> x;  // 0 to 1
  std::vector<int32_t> y;
  Images(const std::string& folder, const std::string& part) {
    const auto pixels = read_idx(folder + part + "-images-idx3-ubyte", 3);
    x.resize(pixels.size());
    std::transform(pixels.begin(), pixels.end(), x.begin(), [](uint8_t p) { return static_cast<float>(p) / 255.0f; });
    const auto labels = read_idx(folder + part + "-labels-idx1-ubyte", 1);
    y.assign(labels.begin(), labels.end());
  }
};

fastbn::Program cnn(uint64_t seed) {
  namespace layers = fastbn::layers;
  fastbn::Graph graph = fastbn::Graph::create();
  graph.add(layers::input("images", {28, 28, 1}));
  graph.add(layers::conv2d("conv2d", 32, {3, 3}, FBN_RELU));
  graph.add(layers::conv2d("conv2d_1", 64, {3, 3}, FBN_RELU));
  graph.add(layers::max_pool2d("max_pooling2d"));
  graph.add(layers::dropout("dropout", 0.25));
  graph.add(layers::flatten("flatten"));
  const int32_t output = graph.add(layers::dense("dense", 10, FBN_SOFTMAX));
  return fastbn::Program::create(graph, output, fastbn::Options(kBatch, seed));
}

void write_weights(const fastbn::Program& program, std::ofstream& file) {
  for (const std::string& name : program.parameters()) {
    const std::vector<float> values = program.get(name);
    file.write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(values.size() * 4));
  }
}

void run(uint64_t seed, int epochs, const char* weights_path, const char* order_path) {
  const char* data = std::getenv("FASTBN_DATA");
  const std::string folder = std::string(data != nullptr ? data : ".") + "/";
  const Images train(folder, "train"), test(folder, "t10k");
  std::ofstream weights(weights_path, std::ios::binary);
  std::ifstream orders;
  if (order_path != nullptr) orders.open(order_path, std::ios::binary);

  fastbn::Program program = cnn(seed);
  write_weights(program, weights);
  std::vector<int64_t> order(train.y.size());
  std::iota(order.begin(), order.end(), 0);
  std::mt19937_64 random(seed);
  for (int epoch = 1; epoch <= epochs; ++epoch) {
    if (order_path == nullptr) {
      std::shuffle(order.begin(), order.end(), random);
    } else if (!orders.read(reinterpret_cast<char*>(order.data()), static_cast<std::streamsize>(order.size() * 8))) {
      throw std::runtime_error(std::string(order_path) + " ends early");
    }
    double loss = 0;
    for (size_t first = 0; first < order.size(); first += kBatch) {
      const size_t count = std::min<size_t>(kBatch, order.size() - first);
      const fbn_step_result step = program.train(train.x, train.y, {order.data() + first, count});
      loss += step.loss * static_cast<double>(count);
    }
    const fbn_step_result tested = program.evaluate(test.x, test.y);
    std::cout << "epoch " << epoch << ": loss " << loss / static_cast<double>(order.size()) << ", test loss "
              << tested.loss << ", accuracy "
              << static_cast<double>(tested.correct) / static_cast<double>(tested.samples) << "\n";
  }
  write_weights(program, weights);
  if (!weights.flush()) throw std::runtime_error(std::string("cannot write ") + weights_path);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4 || argc > 5) {
    std::cerr << "usage: train_mnist SEED EPOCHS WEIGHTS [ORDER]\n";
    return 2;
  }
  try {
    run(std::strtoull(argv[1], nullptr, 10), std::atoi(argv[2]), argv[3], argc == 5 ? argv[4] : nullptr);
  } catch (const std::exception& error) {  // fastbn::Error among them
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}
