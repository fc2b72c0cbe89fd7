// Which build of the CPU kernels this processor runs.
#include "kernels/common/cpu_isa.h"
#include "kernels/divergence/cpu.h"

namespace sssd::divergence {

namespace baseline {
const CpuKernels<float>& kernels_f32();
const CpuKernels<double>& kernels_f64();
}  // namespace baseline
#ifdef SSSD_X86
namespace avx2 {
const CpuKernels<float>& kernels_f32();
}
namespace avx512 {
const CpuKernels<float>& kernels_f32();
}
#endif

const CpuKernels<float>& cpu_kernels_f32() {
#ifdef SSSD_X86
  switch (cpu_isa()) {
    case CpuIsa::avx512:
      return avx512::kernels_f32();
    case CpuIsa::avx2:
      return avx2::kernels_f32();
    default:
      break;
  }
#endif
  return baseline::kernels_f32();
}

const CpuKernels<double>& cpu_kernels_f64() { return baseline::kernels_f64(); }

}  // namespace sssd::divergence
