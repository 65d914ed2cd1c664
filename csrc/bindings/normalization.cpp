// batch_norm over (rows, channels) matrices; statistics are float64.
#include "arrays.hpp"
#include "descriptors.hpp"
#include "register.hpp"

namespace fastbn_python {
namespace {

void batch_norm_forward(const py::object& x, const py::object& gamma, const py::object& beta,
                        const py::object& residual, const py::object& y, const py::object& mean,
                        const py::object& variance, double epsilon, int32_t activation, float alpha) {
  Operands operands("batch_norm_forward");
  const auto vx = operands.view<float>(x, "x", 2);
  const fbn_batch_norm d =
      batch_norm_descriptor(vx.shape.data(), epsilon, activation, alpha, !residual.is_none(), false);
  const float* pg = operands.optional_in<float>(gamma, "gamma", {d.channels});
  const float* pb = operands.optional_in<float>(beta, "beta", {d.channels});
  const float* pr = operands.optional_in<float>(residual, "residual", vx.shape);
  float* py_ = operands.out<float>(y, "y", vx.shape);
  double* pm = operands.out<double>(mean, "mean", {d.channels});
  double* pv = operands.out<double>(variance, "variance", {d.channels});
  operands.run([&] { return fbn_batch_norm_forward(&d, vx.data, pg, pb, pr, py_, pm, pv, operator_exec()); });
}

void batch_norm_inference(const py::object& x, const py::object& gamma, const py::object& beta, const py::object& mean,
                          const py::object& variance, const py::object& residual, const py::object& y, double epsilon,
                          int32_t activation, float alpha) {
  Operands operands("batch_norm_inference");
  const auto vx = operands.view<float>(x, "x", 2);
  const fbn_batch_norm d =
      batch_norm_descriptor(vx.shape.data(), epsilon, activation, alpha, !residual.is_none(), false);
  const float* pg = operands.optional_in<float>(gamma, "gamma", {d.channels});
  const float* pb = operands.optional_in<float>(beta, "beta", {d.channels});
  const double* pm = operands.in<double>(mean, "mean", {d.channels});
  const double* pv = operands.in<double>(variance, "variance", {d.channels});
  const float* pr = operands.optional_in<float>(residual, "residual", vx.shape);
  float* py_ = operands.out<float>(y, "y", vx.shape);
  operands.run([&] { return fbn_batch_norm_inference(&d, vx.data, pg, pb, pm, pv, pr, py_, operator_exec()); });
}

// The operands that all backward functions share.
struct Backward {
  View<const float> x;
  fbn_batch_norm d;
  const float *dy, *gamma, *beta, *y;
  const double *mean, *variance;
};

Backward take_backward(Operands& operands, const py::object& dy, const py::object& x, const py::object& gamma,
                       const py::object& beta, const py::object& mean, const py::object& variance, const py::object& y,
                       double epsilon, int32_t activation, float alpha, bool residual, bool frozen) {
  Backward b{};
  b.x = operands.view<float>(x, "x", 2);
  b.d = batch_norm_descriptor(b.x.shape.data(), epsilon, activation, alpha, residual, frozen);
  b.dy = operands.in<float>(dy, "dy", b.x.shape);
  b.gamma = operands.optional_in<float>(gamma, "gamma", {b.d.channels});
  b.beta = operands.optional_in<float>(beta, "beta", {b.d.channels});
  b.mean = operands.in<double>(mean, "mean", {b.d.channels});
  b.variance = operands.in<double>(variance, "variance", {b.d.channels});
  b.y = operands.optional_in<float>(y, "y", b.x.shape);
  return b;
}

void batch_norm_backward(const py::object& dy, const py::object& x, const py::object& gamma, const py::object& beta,
                         const py::object& mean, const py::object& variance, const py::object& y, const py::object& dx,
                         const py::object& dgamma, const py::object& dbeta, const py::object& dresidual, double epsilon,
                         int32_t activation, float alpha, bool residual, bool frozen) {
  Operands operands("batch_norm_backward");
  const Backward b =
      take_backward(operands, dy, x, gamma, beta, mean, variance, y, epsilon, activation, alpha, residual, frozen);
  float* pdx = operands.optional_out<float>(dx, "dx", b.x.shape);
  float* pdg = operands.optional_out<float>(dgamma, "dgamma", {b.d.channels});
  float* pdb = operands.optional_out<float>(dbeta, "dbeta", {b.d.channels});
  float* pdr = operands.optional_out<float>(dresidual, "dresidual", b.x.shape);
  operands.run([&] {
    return fbn_batch_norm_backward(&b.d, b.dy, b.x.data, b.gamma, b.beta, b.mean, b.variance, b.y, pdx, pdg, pdb, pdr,
                                   operator_exec());
  });
}

int64_t batch_norm_chunk_rows(int64_t total_rows, int64_t channels) {
  int64_t rows = 0;
  check(fbn_batch_norm_chunk_rows(total_rows, channels, &rows));
  return rows;
}

void batch_norm_partial(const py::object& x, int64_t total_rows, const py::object& mean, const py::object& m2) {
  Operands operands("batch_norm_partial");
  const auto vx = operands.view<float>(x, "x", 2);
  const fbn_batch_norm d = batch_norm_descriptor(vx.shape.data(), 1e-3, FBN_LINEAR, 0, false, false);
  double* pm = operands.out<double>(mean, "mean", {d.channels});
  double* ps = operands.out<double>(m2, "m2", {d.channels});
  operands.run([&] { return fbn_batch_norm_partial(&d, vx.data, total_rows, pm, ps, operator_exec()); });
}

void batch_norm_merge(const py::object& counts, const py::object& means, const py::object& m2s, const py::object& mean,
                      const py::object& variance) {
  Operands operands("batch_norm_merge");
  const auto vm = operands.view<double>(means, "means", 2);
  const int64_t shards = vm.shape[0], channels = vm.shape[1];
  const int64_t* pc = operands.in<int64_t>(counts, "counts", {shards});
  const double* ps = operands.in<double>(m2s, "m2s", vm.shape);
  double* pm = operands.out<double>(mean, "mean", {channels});
  double* pv = operands.out<double>(variance, "variance", {channels});
  operands.run([&] { return fbn_batch_norm_merge(shards, channels, pc, vm.data, ps, pm, pv); });
}

void batch_norm_backward_partial(const py::object& dy, const py::object& x, const py::object& gamma,
                                 const py::object& beta, const py::object& mean, const py::object& variance,
                                 const py::object& y, int64_t total_rows, const py::object& sum_dy,
                                 const py::object& sum_dy_xc, double epsilon, int32_t activation, float alpha,
                                 bool residual) {
  Operands operands("batch_norm_backward_partial");
  const Backward b =
      take_backward(operands, dy, x, gamma, beta, mean, variance, y, epsilon, activation, alpha, residual, false);
  double* ps = operands.out<double>(sum_dy, "sum_dy", {b.d.channels});
  double* pc = operands.out<double>(sum_dy_xc, "sum_dy_xc", {b.d.channels});
  operands.run([&] {
    return fbn_batch_norm_backward_partial(&b.d, b.dy, b.x.data, b.gamma, b.beta, b.mean, b.variance, b.y, total_rows,
                                           ps, pc, operator_exec());
  });
}

void batch_norm_backward_merge(const py::object& sums_dy, const py::object& sums_dy_xc, const py::object& sum_dy,
                               const py::object& sum_dy_xc) {
  Operands operands("batch_norm_backward_merge");
  const auto vs = operands.view<double>(sums_dy, "sums_dy", 2);
  const int64_t shards = vs.shape[0], channels = vs.shape[1];
  const double* pc = operands.in<double>(sums_dy_xc, "sums_dy_xc", vs.shape);
  double* ps = operands.out<double>(sum_dy, "sum_dy", {channels});
  double* pq = operands.out<double>(sum_dy_xc, "sum_dy_xc", {channels});
  operands.run([&] { return fbn_batch_norm_backward_merge(shards, channels, vs.data, pc, ps, pq); });
}

void batch_norm_backward_apply(const py::object& dy, const py::object& x, const py::object& gamma,
                               const py::object& beta, const py::object& mean, const py::object& variance,
                               const py::object& y, const py::object& sum_dy, const py::object& sum_dy_xc,
                               int64_t total_rows, const py::object& dx, const py::object& dresidual, double epsilon,
                               int32_t activation, float alpha, bool residual) {
  Operands operands("batch_norm_backward_apply");
  const Backward b =
      take_backward(operands, dy, x, gamma, beta, mean, variance, y, epsilon, activation, alpha, residual, false);
  const double* ps = operands.in<double>(sum_dy, "sum_dy", {b.d.channels});
  const double* pc = operands.in<double>(sum_dy_xc, "sum_dy_xc", {b.d.channels});
  float* pdx = operands.optional_out<float>(dx, "dx", b.x.shape);
  float* pdr = operands.optional_out<float>(dresidual, "dresidual", b.x.shape);
  operands.run([&] {
    return fbn_batch_norm_backward_apply(&b.d, b.dy, b.x.data, b.gamma, b.beta, b.mean, b.variance, b.y, ps, pc,
                                         total_rows, pdx, pdr, operator_exec());
  });
}

}  // namespace

void register_normalization(py::module_& m) {
  m.def("batch_norm_forward", &batch_norm_forward, py::arg("x"), py::arg("gamma"), py::arg("beta"), py::arg("residual"),
        py::arg("y"), py::arg("mean"), py::arg("variance"), py::arg("epsilon"), py::arg("activation"),
        py::arg("alpha"));
  m.def("batch_norm_inference", &batch_norm_inference, py::arg("x"), py::arg("gamma"), py::arg("beta"), py::arg("mean"),
        py::arg("variance"), py::arg("residual"), py::arg("y"), py::arg("epsilon"), py::arg("activation"),
        py::arg("alpha"));
  m.def("batch_norm_backward", &batch_norm_backward, py::arg("dy"), py::arg("x"), py::arg("gamma"), py::arg("beta"),
        py::arg("mean"), py::arg("variance"), py::arg("y"), py::arg("dx"), py::arg("dgamma"), py::arg("dbeta"),
        py::arg("dresidual"), py::arg("epsilon"), py::arg("activation"), py::arg("alpha"), py::arg("residual"),
        py::arg("frozen"));
  m.def("batch_norm_chunk_rows", &batch_norm_chunk_rows, py::arg("total_rows"), py::arg("channels"));
  m.def("batch_norm_partial", &batch_norm_partial, py::arg("x"), py::arg("total_rows"), py::arg("mean"), py::arg("m2"));
  m.def("batch_norm_merge", &batch_norm_merge, py::arg("counts"), py::arg("means"), py::arg("m2s"), py::arg("mean"),
        py::arg("variance"));
  m.def("batch_norm_backward_partial", &batch_norm_backward_partial, py::arg("dy"), py::arg("x"), py::arg("gamma"),
        py::arg("beta"), py::arg("mean"), py::arg("variance"), py::arg("y"), py::arg("total_rows"), py::arg("sum_dy"),
        py::arg("sum_dy_xc"), py::arg("epsilon"), py::arg("activation"), py::arg("alpha"), py::arg("residual"));
  m.def("batch_norm_backward_merge", &batch_norm_backward_merge, py::arg("sums_dy"), py::arg("sums_dy_xc"),
        py::arg("sum_dy"), py::arg("sum_dy_xc"));
  m.def("batch_norm_backward_apply", &batch_norm_backward_apply, py::arg("dy"), py::arg("x"), py::arg("gamma"),
        py::arg("beta"), py::arg("mean"), py::arg("variance"), py::arg("y"), py::arg("sum_dy"), py::arg("sum_dy_xc"),
        py::arg("total_rows"), py::arg("dx"), py::arg("dresidual"), py::arg("epsilon"), py::arg("activation"),
        py::arg("alpha"), py::arg("residual"));
}

}  // namespace fastbn_python
