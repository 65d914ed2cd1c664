// The kernel table of one instruction set: kernel_table_<isa>().
#include "kernel_table.hpp"

#define FASTBN_JOIN(a, b) a##b
#define FASTBN_TABLE(isa) FASTBN_JOIN(kernel_table_, isa)

#if defined(__AVX512F__)
#define FASTBN_TABLE_LANES 16
#elif defined(__AVX2__)
#define FASTBN_TABLE_LANES 8
#else
#define FASTBN_TABLE_LANES 4
#endif

namespace fastbn {

const KernelTable& FASTBN_TABLE(FASTBN_ISA)();

const KernelTable& FASTBN_TABLE(FASTBN_ISA)() {
  static const KernelTable table = [] {
    KernelTable t{};
    t.name = FASTBN_ISA_NAME;
    t.vector_floats = FASTBN_TABLE_LANES;
    FASTBN_ISA::fill_gemm(t.gemm);
    FASTBN_ISA::fill_convolution(t.convolution);
    FASTBN_ISA::fill_planar(t.planar);
    FASTBN_ISA::fill_winograd(t.winograd);
    FASTBN_ISA::fill_pointwise(t.pointwise);
    FASTBN_ISA::fill_normalization(t.normalization);
    FASTBN_ISA::fill_statistics(t.statistics);
    FASTBN_ISA::fill_pooling(t.pooling);
    FASTBN_ISA::fill_losses(t.losses);
    FASTBN_ISA::fill_updates(t.updates);
    FASTBN_ISA::fill_ceilings(t.ceilings);
    return t;
  }();
  return table;
}

}  // namespace fastbn
