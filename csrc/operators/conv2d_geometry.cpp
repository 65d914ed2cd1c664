// conv2d: the rules that a descriptor must keep, padding resolved to numbers, output sizes.
#include <algorithm>

#include "checks.hpp"
#include "conv2d.hpp"
#include "runtime/status.hpp"

namespace fastbn {
namespace {

constexpr int64_t kLongestExtent = int64_t{1} << 31;  // of any size in the descriptor, so that sums cannot overflow

void require_extent(const char* operation, const char* name, int64_t value, int64_t least) {
  require(value >= least && value < kLongestExtent, operation, ": ", name, " must lie in [", least, ", ",
          kLongestExtent, "). Received: ", value);
}

// Output size along one axis; sets the padding of "same".
int64_t resolve_axis(const char* operation, const char* name, int32_t padding, int64_t in, int64_t kernel,
                     int64_t stride, int64_t dilation, int64_t& before, int64_t& after) {
  const int64_t extent = checked_product(operation, {kernel - 1, dilation}) + 1;
  if (padding == FBN_PADDING_SAME) {
    const int64_t out = ceil_div(in, stride);
    const int64_t total = std::max<int64_t>(0, (out - 1) * stride + extent - in);
    before = total / 2;
    after = total - before;
    return out;
  }
  if (padding == FBN_PADDING_VALID) before = after = 0;
  const int64_t padded = in + before + after;
  require(padded >= extent, operation, ": the dilated kernel must fit into the padded image along the ", name,
          ". Received: ", name, " ", in, ", padding (", before, ", ", after, "), kernel ", kernel, ", dilation ",
          dilation);
  return (padded - extent) / stride + 1;
}

}  // namespace

Conv2dGeometry resolve_conv2d(const char* operation, const fbn_conv2d& d) {
  require_extent(operation, "batch", d.batch, 0);
  require_extent(operation, "height", d.height, 1);
  require_extent(operation, "width", d.width, 1);
  require_extent(operation, "in_channels", d.in_channels, 1);
  require_extent(operation, "out_channels", d.out_channels, 1);
  require_extent(operation, "kernel_height", d.kernel_height, 1);
  require_extent(operation, "kernel_width", d.kernel_width, 1);
  require_extent(operation, "stride_height", d.stride_height, 1);
  require_extent(operation, "stride_width", d.stride_width, 1);
  require_extent(operation, "dilation_height", d.dilation_height, 1);
  require_extent(operation, "dilation_width", d.dilation_width, 1);
  require_extent(operation, "groups", d.groups, 1);
  require(d.in_channels % d.groups == 0 && d.out_channels % d.groups == 0, operation,
          ": groups must divide in_channels and out_channels. Received: groups ", d.groups, ", in_channels ",
          d.in_channels, ", out_channels ", d.out_channels);
  require(d.padding >= FBN_PADDING_VALID && d.padding <= FBN_PADDING_EXPLICIT, operation,
          ": padding must be valid, same or explicit. Received: ", d.padding);
  require_activation(operation, d.activation, d.alpha);
  require(d.algorithm == FBN_ALGORITHM_AUTO || d.algorithm == FBN_ALGORITHM_DIRECT, operation,
          ": algorithm must be auto or direct. Received: ", d.algorithm);
  Conv2dGeometry g{};
  g.height = d.height;
  g.width = d.width;
  g.in_channels = d.in_channels;
  g.out_channels = d.out_channels;
  g.kernel_height = d.kernel_height;
  g.kernel_width = d.kernel_width;
  g.stride_height = d.stride_height;
  g.stride_width = d.stride_width;
  g.dilation_height = d.dilation_height;
  g.dilation_width = d.dilation_width;
  g.groups = d.groups;
  if (d.padding == FBN_PADDING_EXPLICIT) {
    require_extent(operation, "pad_top", d.pad_top, 0);
    require_extent(operation, "pad_bottom", d.pad_bottom, 0);
    require_extent(operation, "pad_left", d.pad_left, 0);
    require_extent(operation, "pad_right", d.pad_right, 0);
    g.pad_top = d.pad_top;
    g.pad_bottom = d.pad_bottom;
    g.pad_left = d.pad_left;
    g.pad_right = d.pad_right;
  }
  g.out_height = resolve_axis(operation, "height", d.padding, d.height, d.kernel_height, d.stride_height,
                              d.dilation_height, g.pad_top, g.pad_bottom);
  g.out_width = resolve_axis(operation, "width", d.padding, d.width, d.kernel_width, d.stride_width, d.dilation_width,
                             g.pad_left, g.pad_right);
  const int64_t batch = std::max<int64_t>(1, d.batch);
  checked_product(operation, {batch, d.height, d.width, d.in_channels});
  checked_product(operation, {batch, g.out_height, g.out_width, d.out_channels});
  checked_product(operation, {d.kernel_height, d.kernel_width, d.in_channels / d.groups, d.out_channels});
  // Padded copies of x and, for its gradient, of dy, whose padding is at most what the kernel reaches over.
  const auto padded = [&](int64_t in, int64_t out, int64_t before, int64_t after, int64_t kernel, int64_t dilation) {
    return checked_product(operation, {std::max(in, out) + before + after, 1}) +
           checked_product(operation, {kernel, dilation, 2});
  };
  checked_product(operation,
                  {padded(d.height, g.out_height, g.pad_top, g.pad_bottom, d.kernel_height, d.dilation_height),
                   padded(d.width, g.out_width, g.pad_left, g.pad_right, d.kernel_width, d.dilation_width),
                   std::max(d.in_channels, d.out_channels)});
  return g;
}

}  // namespace fastbn
