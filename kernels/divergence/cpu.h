// The divergence family on the CPU. Work is shared out by a caller's parallel loop; how it is
// shared never changes a result.
#pragma once

#include "kernels/divergence/divergence.h"

namespace sssd::divergence {

// Runs body(begin, end, context) over [0, tasks) in any number of pieces, in any order.
using ParallelFor = void (*)(int64_t tasks, void (*body)(int64_t, int64_t, void*), void* context);

// T is the type of sums, values and saved planes: float, or double where a side is double.
template <class T>
struct ForwardCall {
  Levels levels;
  Settings settings;
  T* values;   // (levels.count)
  T* factors;  // (levels.count)
  T* saved;    // (saved_planes, levels.rows)
  void* workspace;
  ParallelFor parallel;
};

template <class T>
struct BackwardCall {
  Levels levels;
  Settings settings;
  const T* grad_values;
  const T* factors;
  const T* saved;
  ParallelFor parallel;
};

template <class T>
struct CpuKernels {
  const char* name;  // of the instruction set
  int64_t (*workspace_bytes)(const Levels&, const Settings&);
  void (*forward)(const ForwardCall<T>&);
  void (*backward)(const BackwardCall<T>&);
};

// For the widest instructions this processor has; SSSD_CPU_ISA = avx2 or baseline asks for less.
const CpuKernels<float>& cpu_kernels_f32();
const CpuKernels<double>& cpu_kernels_f64();

}  // namespace sssd::divergence
