// Which build of the CPU kernels this processor runs. Kernels are compiled once for each
// instruction set, each time into the namespace of its name; SSSD_FOR_THIS_CPU picks one of the
// copies.
#pragma once

#include <cstdlib>
#include <cstring>

namespace sssd {

enum class CpuIsa { baseline, avx2, avx512 };

// The widest that the processor has. SSSD_CPU_ISA = baseline or avx2 asks for less; read once.
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

#ifdef SSSD_X86
#define SSSD_FOR_THIS_CPU(name)                           \
  (sssd::cpu_isa() == sssd::CpuIsa::avx512 ? avx512::name \
   : sssd::cpu_isa() == sssd::CpuIsa::avx2 ? avx2::name   \
                                           : baseline::name)
#else
#define SSSD_FOR_THIS_CPU(name) baseline::name
#endif
