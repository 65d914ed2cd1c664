// Steps at the edges of a replay: the gathered input, the loss, the update of the parameters.
#include <algorithm>
#include <cstring>

#include "operators/losses.hpp"
#include "operators/pointwise.hpp"
#include "planner.hpp"

namespace fastbn {

// Gathers the shuffled rows of the batch.
void Planner::forward_input(const Op& op) {
  const int64_t row_bytes = node(op).size() * (node(op).dtype == FBN_UINT8 ? 1 : 4);
  const auto gather = [this, op, row_bytes]() -> int {
    begin(Domain::samples);
    const int out = new_value(name(op), row_bytes);
    Step s = step(op, "gather", FBN_FORWARD, {}, {out});
    s.run = [out, row_bytes](const StepContext& c) {
      char* to = c.at<char>(out);
      const char* from = static_cast<const char*>(c.run->x);
      for (int64_t i = 0; i < c.count; ++i)
        std::memcpy(to + i * row_bytes, from + c.run->row(c.first + i) * row_bytes, static_cast<size_t>(row_bytes));
    };
    emit(std::move(s));
    return out;
  };
  const int out = values_[op.output] = gather();
  plan_->values[static_cast<size_t>(out)].remake = gather;
}

void Planner::loss() {
  const Node& out = graph_.node(request_.output);
  const Matrix m = matrix_of(out);
  const bool entropy = request_.loss == FBN_LOSS_SOFTMAX_CROSS_ENTROPY;
  const bool classes = request_.labels_dtype == FBN_INT32;
  const int64_t loss_rows = entropy ? m.rows : 1;
  const int64_t label_bytes = 4 * (classes ? m.rows : m.size());
  plan_->loss_rows = loss_rows;
  plan_->loss = new_global("loss", request_.capacity * loss_rows * 4);
  plan_->correct = new_global("correct", request_.capacity * loss_rows);
  plan_->absolute = new_global("absolute error", request_.capacity * 4);

  begin(Domain::samples);
  const int labels = new_value("labels", label_bytes);
  Step gather;
  gather.operation = "gather labels";
  gather.writes = {labels};
  gather.run = [=](const StepContext& c) {
    const char* from = static_cast<const char*>(c.run->y);
    for (int64_t i = 0; i < c.count; ++i)
      std::memcpy(c.at<char>(labels) + i * label_bytes, from + c.run->row(c.first + i) * label_bytes,
                  static_cast<size_t>(label_bytes));
  };
  emit(std::move(gather));

  const int p = use(values_.at(fused_.output));
  const int dp = training_ ? floats("loss gradient", m.size()) : -1;
  loss_gradient_ = dp;
  Step s;
  s.operation = entropy ? "softmax cross-entropy" : "mean squared error";
  s.reads = {p, labels};
  s.writes = {plan_->loss, plan_->correct, plan_->absolute};
  if (dp >= 0) s.writes.push_back(dp);
  const int loss = plan_->loss, correct = plan_->correct, absolute = plan_->absolute;
  const int32_t dtype = request_.labels_dtype;
  s.run = [=](const StepContext& c) {
    const float scale = 1.0f / static_cast<float>(c.run->batch * loss_rows);
    float* gradient = dp >= 0 ? c.at(dp) : nullptr;
    if (entropy) {
      softmax_cross_entropy(c.count * m.rows, m.columns, c.at(p), c.at<void>(labels), dtype, scale,
                            c.at(loss) + c.first * loss_rows, nullptr, gradient,
                            c.at<uint8_t>(correct) + c.first * loss_rows);
    } else {
      mean_squared_error(c.count, m.size(), c.at(p), c.at(labels), scale, c.at(loss) + c.first,
                         c.at(absolute) + c.first, gradient);
    }
  };
  emit(std::move(s));
}

// Merges the chunks' gradients in a fixed tree and updates, slice by slice.
void Planner::updates() {
  for (const PendingUpdate& pending : pending_) {
    begin(Domain::single, {pending.gradient});
    Parameter* p = pending.parameter;
    const int gradient = pending.gradient;
    const bool chunked = pending.chunked;
    ParameterStore* store = &store_;
    Step s;
    for (size_t i = 0; i + 1 < store_.first_of_node.size(); ++i)
      if (p >= &store_.parameters[static_cast<size_t>(store_.first_of_node[i])]) s.node = static_cast<int>(i);
    s.operation = "update";
    s.direction = FBN_UPDATE;
    s.reads = {gradient};
    s.tasks = ceil_div(p->size, kUpdateTask);
    s.fixed_bytes = p->size * 4 * (3 + 2 * store->slot_count);
    s.note = p->spec.name;
    s.run = [=](const StepContext& c) {
      const int64_t first = c.task * kUpdateTask, size = std::min(kUpdateTask, p->size - first);
      float* g = c.at(gradient) + first;
      const int64_t chunks = chunked ? c.run->plan->chunks(c.run->batch) : 1;
      for (int64_t stride = 1; stride < chunks; stride *= 2)
        for (int64_t i = 0; i + stride < chunks; i += 2 * stride)
          add({1, size, size}, g + i * p->size, g + (i + stride) * p->size, g + i * p->size);
      update_parameter(*store, c.run->rule, *p, g, first, size);
    };
    emit(std::move(s));
  }
}

}  // namespace fastbn
