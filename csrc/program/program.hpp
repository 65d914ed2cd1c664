// A program: parameters, optimizer state, and the plans that train, evaluate and predict with them.
#pragma once

#include <fastbn/fastbn.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "graph.hpp"
#include "kernels/kernel_table.hpp"
#include "locks.hpp"
#include "parameters.hpp"
#include "plan.hpp"

namespace fastbn {

class Program {
 public:
  Program(const Graph& graph, int output, const fbn_program_options& options);

  void set_max_batch(int64_t max_batch);
  void train(const void* x, const void* y, const int64_t* index, int64_t n, fbn_step_result* result, const Exec& exec);
  void evaluate(const void* x, const void* y, const int64_t* index, int64_t n, fbn_step_result* result,
                const Exec& exec);
  void predict(int node, const void* x, const int64_t* index, int64_t n, float* out, const Exec& exec);

  int output() const { return output_; }
  const Graph& graph() const { return graph_; }
  const std::vector<Parameter>& parameters() const { return store_.parameters; }
  void get(int parameter, const char* what, float* out) const;
  void set(int parameter, const char* what, const float* in);
  int64_t iteration() const;
  void set_iteration(int64_t iteration);
  double learning_rate() const;
  void set_learning_rate(double learning_rate);

  std::string describe() const;
  std::vector<fbn_cost_row> costs(int64_t batch) const;
  void reset_costs();

 private:
  // Memory of one replay; kept for the next one.
  struct Memory {
    Buffer arena, lanes, ticks;
    int lane_count = 0;
  };
  // A plan, and memory for as many replays as have run at the same time.
  struct Replayable {
    std::unique_ptr<Plan> plan;
    std::vector<std::unique_ptr<Memory>> idle;
  };
  struct Pieces;
  class Lease;

  void plan_training(int64_t max_batch);
  static Pieces pieces(const Plan& plan, int lanes, bool timing);
  void replay(Replayable& target, Run& run, const Exec& exec);
  Replayable& inference(Mode mode, int node);
  void sum_losses(const Plan& plan, const Run& run, fbn_step_result& result) const;
  void check_batch_labels(const char* operation, const void* y, const int64_t* index, int64_t n) const;
  int64_t input_row_bytes() const;
  const Buffer& buffer(int parameter, const char* what) const;
  void repack();

  // Throws where the program cannot run: BUSY as ProgramLocks says, INVALID_VALUE under another instruction set.
  void require_runnable(const char* operation) const;

  Graph graph_;
  int output_;
  fbn_program_options options_;
  const KernelTable& kernels_ = kernels();  // plans and packed weights are made for it
  ParameterStore store_;
  int64_t iteration_ = 0;
  Replayable training_;
  std::map<std::pair<int, int>, std::unique_ptr<Replayable>> inference_;  // (mode, node)
  mutable ProgramLocks locks_;
  bool packed_ = false;  // the packed kernels and folded layers are those of the current weights
  Timings timings_;      // of the training plan
};

}  // namespace fastbn

struct fbn_program {
  fastbn::Program program;
};
