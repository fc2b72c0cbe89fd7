// The divergence family on the CPU: a call as plain data, and the kernels that run it.
#pragma once

#include "kernels/common/cpu_isa.h"
#include "kernels/common/tasks.h"
#include "kernels/divergence/divergence.h"

namespace sssd::divergence {

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
  int64_t (*workspace_bytes)(const Levels&, const Settings&);
  void (*forward)(const ForwardCall<T>&);
  void (*backward)(const BackwardCall<T>&);
};
namespace baseline {  // cpu.cpp, compiled once for each
extern const CpuKernels<float> kernels_f32;
extern const CpuKernels<double> kernels_f64;
}  // namespace baseline
namespace avx2 {
extern const CpuKernels<float> kernels_f32;
}
namespace avx512 {
extern const CpuKernels<float> kernels_f32;
}

template <class T>
const CpuKernels<T>& cpu_kernels() {
  if constexpr (sizeof(T) == sizeof(double))
    return baseline::kernels_f64;
  else
    return SSSD_FOR_THIS_CPU(kernels_f32);
}

}  // namespace sssd::divergence
