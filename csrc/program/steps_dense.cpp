// Steps of dense layers: by chunks of samples or by columns, and which of the two.
#include <algorithm>

#include "kernels/gemm.hpp"
#include "operators/dense.hpp"
#include "planner.hpp"

namespace fastbn {

// A chunk of the batch streams the kernel once; a features phase makes everything before it cross memory.
// True where the first costs less: behind convolutions, with a kernel that is small beside their activations.
bool Planner::dense_in_blocks(const Op& op) const {
  int64_t crossing = 0;  // bytes a sample that a phase boundary here would store and read again
  for (const Op& other : fused_.ops) {
    if (&other == &op || other.output == op.output) break;
    if (other.kind == OpKind::batch_norm && training_ && !node(other).layer.frozen) crossing = 0;  // cut there anyway
    if (other.kind == OpKind::conv2d || other.kind == OpKind::max_pool2d || other.kind == OpKind::avg_pool2d)
      crossing += 2 * 4 * output_node(other).size();
  }
  const int64_t kernel_bytes = element_count(node(op).parameters[0].shape) * 4;
  return kernel_bytes * kChunks * (training_ ? 4 : 1) <= kCacheAdvantage * crossing * request_.capacity;
}

bool Planner::feeds_batch_norm(const Op& op) const {
  for (const Op& other : fused_.ops)
    if (other.kind == OpKind::batch_norm && other.inputs[0] == op.output && training_ && !node(other).layer.frozen)
      return true;
  return false;
}

void Planner::forward_dense(const Op& op, bool feeds_loss) {
  const Matrix in = {node(op).size() / node(op).layer.units, node(op).parameters[0].shape[0]};
  const Matrix out = {in.rows, node(op).layer.units};
  const Parameter* kernel = store_.find(op.node, ParameterRole::kernel);
  const DensePlan plan = kernel->dense();
  const Weights w = weights(op);
  const bool small = kernel->size * 4 <= kSmallKernelBytes;
  const bool blocks = feeds_loss && small ? true : !feeds_batch_norm(op) && (small || dense_in_blocks(op));
  dense_forward_in_blocks_[op.node] = blocks;
  int x = values_.at(op.inputs[0]);
  if (blocks) {
    begin(Domain::samples);
  } else {
    settle(x);
    begin(Domain::features, {x}, out.columns, out.rows);
  }
  x = use(x);
  const int y = values_[op.output] = floats(name(op), out.size());
  Step s = step(op, "forward", FBN_FORWARD, {x}, {y});
  s.multiply_adds = node(op).multiply_adds;
  s.fixed_bytes = kernel->size * 4;
  s.whole_chunk = blocks;
  s.scratch_floats = blocks ? plan.scratch(plan_->chunk * in.rows, out.columns)
                            : plan.scratch(request_.capacity * in.rows, widest_task());
  s.run = [plan, w, op, in, out, x, y](const StepContext& c) {
    const Range columns = c.columns(out.columns);
    plan.forward(c.at(x), in.columns, c.count * in.rows, w.kernel, w.bias, op.activation, op.alpha, c.at(y),
                 out.columns, columns.begin, columns.end, c.scratch);
  };
  emit(std::move(s));
}

void Planner::backward_dense(const Op& op, int dy) {
  const Matrix in = {node(op).size() / node(op).layer.units, node(op).parameters[0].shape[0]};
  const Matrix out = {in.rows, node(op).layer.units};
  Parameter* kernel = store_.find(op.node, ParameterRole::kernel);
  const DensePlan plan = kernel->dense();
  Parameter* bias = store_.find(op.node, ParameterRole::bias);
  ParameterStore* store = &store_;
  const bool trains_kernel = kernel->spec.trainable;
  const bool trains_bias = bias != nullptr && bias->spec.trainable;
  const bool data = needs_gradient(op.inputs[0]);
  int dz = backward_activation(op, out, dy);

  if (dense_in_blocks(op) && dense_forward_in_blocks_.at(op.node)) {
    begin(Domain::samples);
    dz = use(dz);
    if (trains_bias) {
      const int partial = new_global(bias->spec.name + " partial gradients", kChunks * bias->size * 4);
      Step s = step(op, "backward_bias", FBN_BACKWARD, {dz}, {partial});
      s.whole_chunk = true;
      s.scratch_floats = 2 * bias->size;
      s.run = [=](const StepContext& c) {
        double* sums = reinterpret_cast<double*>(c.scratch);
        column_sums(c.at(dz), out.columns, c.count * out.rows, out.columns, sums, false);
        std::copy_n(sums, bias->size, c.at(partial) + c.chunk * bias->size);
      };
      emit(std::move(s));
      pending_.push_back({bias, partial, true});
    }
    if (trains_kernel) {
      const int x = use(values_.at(op.inputs[0]));
      const int partial = new_global(kernel->spec.name + " partial gradients", kChunks * kernel->size * 4);
      Step s = step(op, "backward_filter", FBN_BACKWARD, {x, dz}, {partial});
      s.whole_chunk = true;
      s.multiply_adds = node(op).multiply_adds;
      s.fixed_bytes = kernel->size * 4;
      s.scratch_floats = plan.filter_scratch(plan_->chunk * in.rows, out.columns);
      s.run = [=](const StepContext& c) {
        float* own = c.at(partial) + c.chunk * kernel->size;
        plan.backward_filter(c.at(x), in.columns, c.at(dz), out.columns, c.count * in.rows, own, {0, in.columns},
                             {0, out.columns}, c.scratch);
      };
      emit(std::move(s));
      pending_.push_back({kernel, partial, true});
    }
    if (data) {
      const int dx = floats("gradient into " + name(op), in.size());
      Step s = step(op, "backward_data", FBN_BACKWARD, {dz}, {dx});
      s.whole_chunk = true;
      s.multiply_adds = node(op).multiply_adds;
      s.fixed_bytes = kernel->size * 4;
      s.scratch_floats = plan.scratch(plan_->chunk * in.rows, in.columns);
      s.run = [=](const StepContext& c) {
        plan.backward_data(c.at(dz), out.columns, c.count * in.rows, kernel->value.floats(), c.at(dx), in.columns, 0,
                           in.columns, c.scratch);
      };
      emit(std::move(s));
      contribute(op.inputs[0], dx);
    }
    return;
  }

  // The bias belongs to columns of dz: with the phase that makes them, else to the first task of the next one.
  const auto bias_step = [&](bool solo) {
    Step s = step(op, "backward_bias", FBN_BACKWARD, {dz}, {});
    s.solo = solo;
    s.note = "updated here";
    s.scratch_floats = 3 * bias->size;
    s.run = [=](const StepContext& c) {
      const int64_t first = solo ? 0 : c.begin, columns = solo ? out.columns : c.end - c.begin;
      double* sums = reinterpret_cast<double*>(c.scratch);
      float* gradient = c.scratch + 2 * columns;
      column_sums(c.at(dz) + first, out.columns, c.count * out.rows, columns, sums, false);
      std::copy_n(sums, columns, gradient);
      update_parameter(*store, c.run->rule, *bias, gradient, first, columns);
    };
    emit(std::move(s));
  };
  const bool with_columns = in_features(out.columns, out.rows) && written_here(dz);
  if (trains_bias && with_columns) bias_step(false);

  // Where nobody wants dx, W's gradient goes by columns with the phase that makes dz. It is the cut of forward, too, so
  // a thread keeps its weights; with dx it goes by rows, which read W once for both.
  if (with_columns && trains_kernel && !data)
    return emit_dense_filter(op, plan, use(values_.at(op.inputs[0])), dz, true);

  if (trains_kernel || data || (trains_bias && !with_columns)) begin(Domain::features, {dz}, in.columns, in.rows);
  dz = use(dz);
  if (trains_bias && !with_columns) bias_step(true);
  if (data) {  // before the weights of these rows change
    const int dx = floats("gradient into " + name(op), in.size());
    Step s = step(op, "backward_data", FBN_BACKWARD, {dz}, {dx});
    s.multiply_adds = node(op).multiply_adds;
    s.fixed_bytes = kernel->size * 4;
    s.scratch_floats = plan.scratch(request_.capacity * in.rows, widest_task());
    s.run = [=](const StepContext& c) {
      plan.backward_data(c.at(dz), out.columns, c.count * in.rows, kernel->value.floats(), c.at(dx), in.columns,
                         c.begin, c.end, c.scratch);
    };
    emit(std::move(s));
    contribute(op.inputs[0], dx);
  }
  if (trains_kernel) emit_dense_filter(op, plan, use(values_.at(op.inputs[0])), dz, false);
}

// W's gradient and update in a features phase of out (by_outputs) or of in.
void Planner::emit_dense_filter(const Op& op, const DensePlan& plan, int x, int dz, bool by_outputs) {
  const int64_t in = plan.in_features(), out = plan.out_features(), rows = node(op).size() / out;
  Parameter* kernel = store_.find(op.node, ParameterRole::kernel);
  ParameterStore* store = &store_;
  Step s = step(op, "backward_filter", FBN_BACKWARD, {x, dz}, {});
  s.note = "updated here";
  s.multiply_adds = node(op).multiply_adds;
  s.fixed_bytes = kernel->size * 4 * (2 + 2 * store->slot_count);
  s.scratch_floats = plan.update_scratch(request_.capacity * rows, by_outputs ? widest_task() : out);
  s.run = [=](const StepContext& c) {
    const Range ks = by_outputs ? Range{0, in} : Range{c.begin, c.end};
    const Range columns = by_outputs ? Range{c.begin, c.end} : Range{0, out};
    const UpdateRule& rule = c.run->rule;
    if (rule.kind == FBN_SGD && !store->keep_gradients && DensePlan::updates_in_place(c.count * rows)) {
      const GemmUpdate update{rule.learning_rate, rule.decay, rule.momentum, rule.nesterov,
                              rule.has_momentum ? kernel->slots[0].floats() : nullptr};
      return plan.backward_filter_update(c.at(x), in, c.at(dz), out, c.count * rows, kernel->value.floats(), ks,
                                         columns, update, c.scratch);
    }
    const DensePlan::FilterBlock block = DensePlan::update_block(c.count * rows, ks.size(), columns.size());
    float* scratch = c.scratch + block.in * block.out;
    for (int64_t j = columns.begin; j < columns.end; j += block.out) {
      const Range part_out{j, std::min(j + block.out, columns.end)};
      for (int64_t k = ks.begin; k < ks.end; k += block.in) {
        const Range part_in{k, std::min(k + block.in, ks.end)};
        plan.backward_filter(c.at(x), in, c.at(dz), out, c.count * rows, c.scratch, part_in, part_out, scratch);
        for (int64_t p = part_out.begin; p < part_out.end; p += kDensePanel) {
          const int64_t size = part_in.size() * std::min(kDensePanel, part_out.end - p);
          update_parameter(*store, rule, *kernel, c.scratch + part_in.size() * (p - j), plan.kernel_at(k, p), size);
        }
      }
    }
  };
  emit(std::move(s));
}

}  // namespace fastbn
