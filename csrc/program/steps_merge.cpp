// Steps of sums and concatenations, and of gradients that several readers contributed to.
#include "operators/pointwise.hpp"
#include "planner.hpp"

namespace fastbn {

void Planner::forward_merge(const Op& op) {
  const Matrix m = matrix_of(node(op));
  begin(Domain::samples);
  std::vector<int> inputs;
  std::vector<int64_t> widths;
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    inputs.push_back(use(values_.at(op.inputs[i])));
    widths.push_back(graph_.node(node(op).inputs[i]).channels());
  }
  const int y = values_[op.output] = floats(name(op), m.size());
  Step s = step(op, "forward", FBN_FORWARD, inputs, {y});
  if (op.kind == OpKind::add) {
    s.run = [=](const StepContext& c) {
      const Region all{c.count * m.rows, m.columns, m.columns};
      add(all, c.at(inputs[0]), c.at(inputs[1]), c.at(y));
      for (size_t i = 2; i < inputs.size(); ++i) add(all, c.at(y), c.at(inputs[i]), c.at(y));
    };
  } else {
    s.run = [=](const StepContext& c) {
      int64_t offset = 0;
      for (size_t i = 0; i < inputs.size(); ++i) {
        copy({c.count * m.rows, widths[i], m.columns}, c.at(inputs[i]), widths[i], c.at(y) + offset);
        offset += widths[i];
      }
    };
  }
  emit(std::move(s));
}

void Planner::backward_merge(const Op& op, int dy) {
  if (op.kind == OpKind::add) {
    for (const int input : op.inputs) contribute(input, dy);
    return;
  }
  const Matrix m = matrix_of(node(op));
  begin(Domain::samples);
  dy = use(dy);
  int64_t offset = 0;
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    const int64_t width = graph_.node(node(op).inputs[i]).channels();
    if (needs_gradient(op.inputs[i])) {
      const int dx = floats("gradient into " + name(op), m.rows * width);
      Step s = step(op, "backward", FBN_BACKWARD, {dy}, {dx});
      s.run = [=](const StepContext& c) {
        copy({c.count * m.rows, width, width}, c.at(dy) + offset, m.columns, c.at(dx));
      };
      emit(std::move(s));
      contribute(op.inputs[i], dx);
    }
    offset += width;
  }
}

// The sum of what the readers of op's output contributed; -1 if nothing did.
int Planner::gradient_of(const Op& op) {
  const auto found = gradients_.find(op.output);
  if (found == gradients_.end()) return -1;
  std::vector<int> parts = found->second;
  if (parts.size() == 1) return parts[0];
  const int64_t size = output_node(op).size();
  begin(Domain::samples);
  for (int& part : parts) part = use(part);
  const int sum = floats("gradient of " + name(op), size);
  Step s = step(op, "sum of gradients", FBN_BACKWARD, parts, {sum});
  s.run = [=](const StepContext& c) {
    const Region all{c.count, size, size};
    add(all, c.at(parts[0]), c.at(parts[1]), c.at(sum));
    for (size_t i = 2; i < parts.size(); ++i) add(all, c.at(sum), c.at(parts[i]), c.at(sum));
  };
  emit(std::move(s));
  return sum;
}

}  // namespace fastbn
