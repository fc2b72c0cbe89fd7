// The widest instruction set of this processor for which kernels are built.
#pragma once

#include <cstdlib>
#include <cstring>

namespace sssd {

enum class CpuIsa { baseline, avx2, avx512 };

// SSSD_CPU_ISA = baseline or avx2 asks for less than the processor has; read once.
inline CpuIsa cpu_isa() {
  static const CpuIsa chosen = [] {
#ifdef SSSD_X86
    const char* asked = std::getenv("SSSD_CPU_ISA");
    const bool baseline = asked && std::strcmp(asked, "baseline") == 0;
    const bool at_most_avx2 = asked && std::strcmp(asked, "avx2") == 0;
    if (baseline) return CpuIsa::baseline;
    if (__builtin_cpu_supports("x86-64-v4") && !at_most_avx2) return CpuIsa::avx512;
    if (__builtin_cpu_supports("x86-64-v3")) return CpuIsa::avx2;
#endif
    return CpuIsa::baseline;
  }();
  return chosen;
}

}  // namespace sssd
