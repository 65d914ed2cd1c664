// The kernels of one instruction set. Every slot is filled by the bodies compiled for that set, so none is
// ever missing. Each family of kernels has its contract in a header of its own, <family>.hpp, with a struct
// of function pointers; its bodies, <family>.cpp, are compiled once per instruction set into
// namespace fastbn::FASTBN_ISA and fill that struct.
#pragma once

#include "ceilings.hpp"
#include "convolution.hpp"
#include "gemm.hpp"
#include "losses.hpp"
#include "normalization.hpp"
#include "planar.hpp"
#include "pointwise.hpp"
#include "pooling.hpp"
#include "statistics.hpp"
#include "updates.hpp"
#include "winograd.hpp"

namespace fastbn {

struct KernelTable {
  const char* name;   // "baseline", "avx2", "avx512", "neon"
  int vector_floats;  // lanes of one vector
  GemmKernels gemm;
  ConvolutionKernels convolution;
  PlanarKernels planar;
  WinogradKernels winograd;
  PointwiseKernels pointwise;
  NormalizationKernels normalization;
  StatisticsKernels statistics;
  PoolingKernels pooling;
  LossKernels losses;
  UpdateKernels updates;
  CeilingKernels ceilings;
};

// The table in use: FASTBN_ISA or the best that the machine has (runtime/cpu.cpp chooses).
const KernelTable& kernels();
// The table of an instruction set by its name. Throws INVALID_VALUE where this machine or this build has it not.
const KernelTable& kernels_of(const char* operation, const char* isa);

}  // namespace fastbn
