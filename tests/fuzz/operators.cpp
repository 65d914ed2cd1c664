// Descriptors of every operator.
#include "input.hpp"

namespace fuzz {
namespace {

void fuzz_conv2d(Input& in) {
  fbn_conv2d d{};
  d.struct_size = in.struct_size<fbn_conv2d>();
  d.batch = in.size();
  d.height = in.extent();
  d.width = in.extent();
  d.in_channels = in.extent();
  d.out_channels = in.extent();
  d.kernel_height = in.extent();
  d.kernel_width = in.extent();
  d.groups = in.flag() ? 1 : in.extent();
  if (in.flag() && d.groups > 0 && d.groups < 9 && d.in_channels > 0 && d.in_channels < 9) {  // that divides
    d.in_channels *= d.groups;
    d.out_channels = d.groups * (d.out_channels > 0 && d.out_channels < 9 ? d.out_channels : 1);
  }
  const bool plain = in.flag();
  d.stride_height = plain ? 1 : in.extent();
  d.stride_width = plain ? 1 : in.extent();
  d.dilation_height = plain ? 1 : in.extent();
  d.dilation_width = plain ? 1 : in.extent();
  d.padding = in.choice(3);
  if (d.padding == FBN_PADDING_EXPLICIT) {
    d.pad_top = in.size();
    d.pad_bottom = in.size();
    d.pad_left = in.size();
    d.pad_right = in.size();
  }
  d.activation = in.choice(5);
  d.alpha = static_cast<float>(in.number());
  d.algorithm = in.choice(2);

  int64_t height = -1, width = -1;
  const fbn_status shaped = checked(fbn_conv2d_output_size(&d, &height, &width));
  if (shaped == FBN_OK && (height < 0 || width < 0)) broken("a negative output size");
  const int64_t x_size = elements({d.batch, d.height, d.width, d.in_channels});
  const int64_t y_size = shaped == FBN_OK ? elements({d.batch, height, width, d.out_channels}) : -1;
  const int64_t kernel_size =
      d.groups > 0 && d.in_channels >= 0
          ? elements({d.kernel_height, d.kernel_width, d.in_channels / d.groups, d.out_channels})
          : -1;
  const int64_t channels = elements({d.out_channels});
  const bool runs = shaped == FBN_OK && x_size >= 0 && y_size >= 0 && kernel_size >= 0 &&
                    (y_size == 0 || kernel_size / std::max<int64_t>(d.out_channels, 1) * y_size <= kMaxWork);
  Arrays a(in);
  if (in.flag()) {
    const float *x = a.in(x_size), *kernel = a.in(kernel_size), *bias = a.in(channels, true);
    float* y = a.out(y_size);
    call(in, a, runs, [&](const fbn_exec* e) { return fbn_conv2d_forward(&d, x, kernel, bias, y, e); });
  } else {
    const float *dy = a.in(y_size), *x = a.in(x_size), *kernel = a.in(kernel_size), *y = a.in(y_size, true);
    float *dx = a.out(x_size, true), *dkernel = a.out(kernel_size, true), *dbias = a.out(channels, true);
    call(in, a, runs,
         [&](const fbn_exec* e) { return fbn_conv2d_backward(&d, dy, x, kernel, y, dx, dkernel, dbias, e); });
  }
}

void fuzz_dense(Input& in) {
  fbn_dense d{};
  d.struct_size = in.struct_size<fbn_dense>();
  d.rows = in.size();
  d.in_features = in.extent();
  d.out_features = in.extent();
  d.activation = in.choice(5);
  d.alpha = static_cast<float>(in.number());
  const int64_t x_size = elements({d.rows, d.in_features}), y_size = elements({d.rows, d.out_features});
  const int64_t kernel_size = elements({d.in_features, d.out_features}), units = elements({d.out_features});
  Arrays a(in);
  if (in.flag()) {
    const float *x = a.in(x_size), *kernel = a.in(kernel_size), *bias = a.in(units, true);
    float* y = a.out(y_size);
    call(in, a, true, [&](const fbn_exec* e) { return fbn_dense_forward(&d, x, kernel, bias, y, e); });
  } else {
    const float *dy = a.in(y_size), *x = a.in(x_size), *kernel = a.in(kernel_size), *y = a.in(y_size, true);
    float *dx = a.out(x_size, true), *dkernel = a.out(kernel_size, true), *dbias = a.out(units, true);
    call(in, a, true,
         [&](const fbn_exec* e) { return fbn_dense_backward(&d, dy, x, kernel, y, dx, dkernel, dbias, e); });
  }
}

void fuzz_batch_norm(Input& in) {
  fbn_batch_norm d{};
  d.struct_size = in.struct_size<fbn_batch_norm>();
  d.rows = in.size();
  d.channels = in.extent();
  d.epsilon = in.number();
  d.activation = in.choice(5);
  d.alpha = static_cast<float>(in.number());
  d.has_residual = in.flag();
  d.frozen = in.flag();
  const int64_t size = elements({d.rows, d.channels}), c = elements({d.channels});
  Arrays a(in);
  switch (in.byte() % 8) {
    case 0: {
      const float *x = a.in(size), *gamma = a.in(c, true), *beta = a.in(c, true), *residual = a.in(size, true);
      float* y = a.out(size);
      double *mean = a.out<double>(c), *variance = a.out<double>(c);
      return call(in, a, true, [&](const fbn_exec* e) {
        return fbn_batch_norm_forward(&d, x, gamma, beta, residual, y, mean, variance, e);
      });
    }
    case 1: {
      const float *x = a.in(size), *gamma = a.in(c, true), *beta = a.in(c, true);
      const double *mean = a.in<double>(c), *variance = a.in<double>(c);
      const float* residual = a.in(size, true);
      float* y = a.out(size);
      return call(in, a, true, [&](const fbn_exec* e) {
        return fbn_batch_norm_inference(&d, x, gamma, beta, mean, variance, residual, y, e);
      });
    }
    case 2: {
      const float* x = a.in(size);
      double *mean = a.out<double>(c), *m2 = a.out<double>(c);
      const int64_t total = in.size();
      int64_t chunk = 0;
      if (checked(fbn_batch_norm_chunk_rows(total, d.channels, &chunk)) == FBN_OK && chunk < 1)
        broken("a chunk without rows");
      return call(in, a, true, [&](const fbn_exec* e) { return fbn_batch_norm_partial(&d, x, total, mean, m2, e); });
    }
    case 3: {
      const int64_t shards = in.size(), all = elements({shards, d.channels});
      const int64_t* counts = a.in<int64_t>(elements({shards}));
      const double *means = a.in<double>(all), *m2s = a.in<double>(all);
      double *mean = a.out<double>(c), *variance = a.out<double>(c);
      if (!a.runs()) return;  // takes no query
      if (checked(fbn_batch_norm_merge(shards, d.channels, counts, means, m2s, mean, variance)) != FBN_OK)
        a.check_untouched();
      return;
    }
    case 4: {
      const int64_t shards = in.size(), all = elements({shards, d.channels});
      const double *dys = a.in<double>(all), *xcs = a.in<double>(all);
      double *sum_dy = a.out<double>(c), *sum_dy_xc = a.out<double>(c);
      if (!a.runs()) return;
      if (checked(fbn_batch_norm_backward_merge(shards, d.channels, dys, xcs, sum_dy, sum_dy_xc)) != FBN_OK)
        a.check_untouched();
      return;
    }
    default:
      break;
  }
  const float *dy = a.in(size), *x = a.in(size), *gamma = a.in(c, true), *beta = a.in(c, true);
  const double *mean = a.in<double>(c), *variance = a.in<double>(c);
  const float* y = a.in(size, true);
  switch (in.byte() % 3) {
    case 0: {
      float *dx = a.out(size, true), *dgamma = a.out(c, true), *dbeta = a.out(c, true), *dresidual = a.out(size, true);
      return call(in, a, true, [&](const fbn_exec* e) {
        return fbn_batch_norm_backward(&d, dy, x, gamma, beta, mean, variance, y, dx, dgamma, dbeta, dresidual, e);
      });
    }
    case 1: {
      double *sum_dy = a.out<double>(c), *sum_dy_xc = a.out<double>(c);
      const int64_t total = in.size();
      return call(in, a, true, [&](const fbn_exec* e) {
        return fbn_batch_norm_backward_partial(&d, dy, x, gamma, beta, mean, variance, y, total, sum_dy, sum_dy_xc, e);
      });
    }
    default: {
      const double *sum_dy = a.in<double>(c), *sum_dy_xc = a.in<double>(c);
      const int64_t total = in.flag() ? d.rows : in.size();
      float *dx = a.out(size, true), *dresidual = a.out(size, true);
      return call(in, a, true, [&](const fbn_exec* e) {
        return fbn_batch_norm_backward_apply(&d, dy, x, gamma, beta, mean, variance, y, sum_dy, sum_dy_xc, total, dx,
                                             dresidual, e);
      });
    }
  }
}

void fuzz_pooling(Input& in) {
  fbn_pool2d d{};
  d.struct_size = in.struct_size<fbn_pool2d>();
  d.batch = in.size();
  d.height = in.extent();
  d.width = in.extent();
  d.channels = in.extent();
  d.pool_height = in.extent();
  d.pool_width = in.extent();
  d.stride_height = in.extent();
  d.stride_width = in.extent();
  d.padding = in.choice(3);
  if (d.padding == FBN_PADDING_EXPLICIT) {
    d.pad_top = in.size();
    d.pad_bottom = in.size();
    d.pad_left = in.size();
    d.pad_right = in.size();
  }
  int64_t height = -1, width = -1;
  const fbn_status shaped = checked(fbn_pool2d_output_size(&d, &height, &width));
  if (shaped == FBN_OK && (height < 0 || width < 0)) broken("a negative output size");
  const int32_t dtype = fbn_pool2d_index_dtype(&d);
  if (dtype != FBN_UINT8 && dtype != FBN_INT32) broken("an index of another type");
  const int64_t x_size = elements({d.batch, d.height, d.width, d.channels});
  const int64_t y_size = shaped == FBN_OK ? elements({d.batch, height, width, d.channels}) : -1;
  const int64_t window = elements({d.pool_height, d.pool_width});
  const bool runs = shaped == FBN_OK && y_size >= 0 && window >= 0 && window * y_size <= kMaxWork;
  Arrays a(in);
  switch (in.byte() % 4) {
    case 0: {
      const float* x = a.in(x_size);
      float* y = a.out(y_size);
      void* index =
          dtype == FBN_UINT8 ? static_cast<void*>(a.out<uint8_t>(y_size, true)) : a.out<int32_t>(y_size, true);
      return call(in, a, runs, [&](const fbn_exec* e) { return fbn_max_pool2d_forward(&d, x, y, index, e); });
    }
    case 1: {
      const float* dy = a.in(y_size);
      const void* index = dtype == FBN_UINT8 ? static_cast<const void*>(a.in<uint8_t>(y_size)) : a.in<int32_t>(y_size);
      float* dx = a.out(x_size);
      return call(in, a, runs, [&](const fbn_exec* e) { return fbn_max_pool2d_backward(&d, dy, index, dx, e); });
    }
    case 2: {
      const float* x = a.in(x_size);
      float* y = a.out(y_size);
      return call(in, a, runs, [&](const fbn_exec* e) { return fbn_avg_pool2d_forward(&d, x, y, e); });
    }
    default: {
      const float* dy = a.in(y_size);
      float* dx = a.out(x_size);
      return call(in, a, runs, [&](const fbn_exec* e) { return fbn_avg_pool2d_backward(&d, dy, dx, e); });
    }
  }
}

void fuzz_global_pooling(Input& in) {
  const int64_t batch = in.size(), pixels = in.extent(), channels = in.extent();
  const int64_t full = elements({batch, pixels, channels}), few = elements({batch, channels});
  Arrays a(in);
  if (in.flag()) {
    const float* x = a.in(full);
    float* y = a.out(few);
    return call(in, a, true,
                [&](const fbn_exec* e) { return fbn_global_avg_pool2d_forward(batch, pixels, channels, x, y, e); });
  }
  const float* dy = a.in(few);
  float* dx = a.out(full);
  call(in, a, true,
       [&](const fbn_exec* e) { return fbn_global_avg_pool2d_backward(batch, pixels, channels, dy, dx, e); });
}

void fuzz_activation(Input& in) {
  const int32_t activation = in.choice(6);
  const float alpha = static_cast<float>(in.number());
  const int64_t rows = in.size(), columns = in.extent(), size = elements({rows, columns});
  Arrays a(in);
  const bool in_place = in.flag();
  if (in.flag()) {
    const float* x = in_place ? nullptr : a.in(size);
    float* y = a.out(size);
    return call(in, a, true, [&](const fbn_exec* e) {
      return fbn_activation_forward(activation, alpha, rows, columns, in_place ? y : x, y, e);
    });
  }
  const float *dy = in_place ? nullptr : a.in(size), *y = a.in(size);
  float* dx = a.out(size);
  call(in, a, true, [&](const fbn_exec* e) {
    return fbn_activation_backward(activation, alpha, rows, columns, in_place ? dx : dy, y, dx, e);
  });
}

void fuzz_dropout(Input& in) {
  const double rate = in.number();
  const uint64_t seed = in.raw<uint32_t>();
  const int64_t size = in.size(), n = elements({size});
  Arrays a(in);
  const float* x = a.in(n);
  float* y = a.out(n);
  const bool forward = in.flag();
  call(in, a, true, [&](const fbn_exec* e) {
    return forward ? fbn_dropout_forward(rate, seed, size, x, y, e) : fbn_dropout_backward(rate, seed, size, x, y, e);
  });
}

void fuzz_losses(Input& in) {
  const int64_t rows = in.size(), classes = in.extent(), size = elements({rows, classes}), few = elements({rows});
  const float scale = static_cast<float>(in.number());
  Arrays a(in);
  const bool forward = in.flag();
  if (in.flag()) {
    const int32_t dtype = in.choice(3);
    const float* p = a.in(size);
    const void* labels = dtype == FBN_INT32 ? static_cast<const void*>(a.in<int32_t>(few)) : a.in(size);
    float *loss = forward ? a.out(few) : nullptr, *out = a.out(size);
    // The classes are looked at before anything else, even for a query.
    if (dtype == FBN_INT32 && few < 0) return;
    return call(in, a, true, [&](const fbn_exec* e) {
      return forward ? fbn_softmax_cross_entropy_forward(rows, classes, p, labels, dtype, loss, out, e)
                     : fbn_softmax_cross_entropy_backward(rows, classes, p, labels, dtype, scale, out, e);
    });
  }
  const float *p = a.in(size), *t = a.in(size);
  float* out = a.out(forward ? few : size);
  call(in, a, true, [&](const fbn_exec* e) {
    return forward ? fbn_mean_squared_error_forward(rows, classes, p, t, out, e)
                   : fbn_mean_squared_error_backward(rows, classes, p, t, scale, out, e);
  });
}

void fuzz_optimizer(Input& in) {
  fbn_optimizer d{};
  d.struct_size = in.struct_size<fbn_optimizer>();
  d.kind = in.choice(3);
  d.learning_rate = in.number();
  d.momentum = in.number();
  d.nesterov = in.flag();
  d.rho = in.number();
  d.centered = in.flag();
  d.beta_1 = in.number();
  d.beta_2 = in.number();
  d.amsgrad = in.flag();
  d.epsilon = in.number();
  d.weight_decay = in.number();
  const int64_t iteration = in.size(), size = in.size(), n = elements({size});
  const int32_t count = fbn_optimizer_slot_count(&d);
  if (count < 0 || count > 3) broken("a slot count that cannot be");
  for (int32_t i = -1; i <= count; ++i)
    if ((fbn_optimizer_slot_name(&d, i) != nullptr) != (i >= 0 && i < count)) broken("a slot without a name");
  Arrays a(in);
  const float* gradient = a.in(n);
  float* weights = a.out(n);
  float* slots[3] = {};
  for (int32_t i = 0; i < count; ++i) slots[i] = a.out(n);
  float* const* given = in.byte() < 250 ? slots : nullptr;
  call(in, a, true,
       [&](const fbn_exec* e) { return fbn_optimizer_update(&d, iteration, size, weights, gradient, given, e); });
}

}  // namespace

void fuzz_operator(Input& input) {
  static constexpr void (*kOperators[])(Input&) = {fuzz_conv2d,  fuzz_conv2d,         fuzz_dense,      fuzz_batch_norm,
                                                   fuzz_pooling, fuzz_global_pooling, fuzz_activation, fuzz_dropout,
                                                   fuzz_losses,  fuzz_optimizer};
  static constexpr const char* kSets[] = {"baseline", "avx2", "neon", "avx512"};
  fbn_set_isa(kSets[input.byte() % 4]);  // one that is not here is refused, and the one before stays
  kOperators[input.byte() % std::size(kOperators)](input);
}

}  // namespace fuzz
