// Compiled once for each instruction set: SSSD_ISA names it (CMakeLists.txt).
#include "kernels/divergence/cpu.h"

#include "kernels/divergence/cpu_driver.h"

#define SSSD_STRING(x) #x
#define SSSD_NAME(x) SSSD_STRING(x)

namespace sssd::divergence::SSSD_ISA {

const CpuKernels<float>& kernels_f32() {
  static const CpuKernels<float> table = kernels<float>(SSSD_NAME(SSSD_ISA));
  return table;
}

#ifdef SSSD_ISA_BASELINE  // double serves gradcheck: one build is enough
const CpuKernels<double>& kernels_f64() {
  static const CpuKernels<double> table = kernels<double>(SSSD_NAME(SSSD_ISA));
  return table;
}
#endif

}  // namespace sssd::divergence::SSSD_ISA
