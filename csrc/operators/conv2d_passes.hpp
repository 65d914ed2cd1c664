// The passes of a convolution as blocks of work: what every algorithm offers, so that operators and programs can cut
// them into tasks without knowing which one they run.
#pragma once

#include <cstdint>
#include <string>

#include "conv2d.hpp"
#include "pointwise.hpp"
#include "runtime/ranges.hpp"
#include "tile_text.hpp"

namespace fastbn {

inline int64_t parts_of_at_most(int64_t total, int64_t most) { return total > most ? ceil_div(total, most) : 1; }

// forward or backward_data: the destination from the source and packed weights. A call may be cut along images, rows
// of the destination and units (panels of its channels) in any way: the bits stay.
class Correlation {
 public:
  virtual ~Correlation() = default;
  virtual const char* name() const = 0;
  virtual std::string tile() const = 0;  // what its kernel keeps in registers
  virtual int64_t rows() const = 0;
  virtual int64_t row_pixels() const = 0;  // of the destination, about
  virtual int64_t units() const = 0;
  virtual int64_t packed_size() const = 0;  // floats
  virtual int64_t scratch() const = 0;      // floats, of one task
  virtual void pack(const float* kernel, float* packed, Range units) const = 0;
  virtual void run(const float* source, const float* packed, const float* bias, int32_t activation, float alpha,
                   float* to, Range images, Range rows, Range units, float* scratch) const = 0;
};

// backward_filter: granules (runs of pixels of one or several images) are summed up one after the other, each as one
// chain. Cuts along units and rows leave the bits alone; a cut between granules does where the same task adds them in
// order.
class FilterGradient {
 public:
  virtual ~FilterGradient() = default;
  virtual const char* name() const = 0;
  virtual std::string tile() const = 0;
  virtual int64_t granules(int64_t images) const = 0;
  virtual int64_t images_of_granule() const { return 1; }  // calls for parts of a batch begin at multiples of it
  virtual int64_t units() const = 0;
  virtual int64_t rows() const = 0;       // of the gradient as this algorithm cuts it
  virtual int64_t row_grain() const = 0;  // fewest rows that are worth a task
  // Of so many tasks, those side by side; the others cut the rows.
  virtual int64_t unit_parts(int64_t tasks) const { return tasks; }
  virtual int64_t scratch(int64_t unit_count) const = 0;
  // dkernel (+)= granules [begin, end), one after the other; the first overwrites where `fresh`.
  virtual void run(const float* x, const float* dy, float* dkernel, int64_t images, Range granule, Range units,
                   Range rows, bool fresh, float* scratch) const = 0;
};

}  // namespace fastbn
