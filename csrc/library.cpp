// What this build holds, for sssd.ops.dispatch and for bug reports.
#include <torch/csrc/stable/library.h>

#include <vector>

#include "kernels/common/cpu_isa.h"

namespace {

#ifndef SSSD_WITH_CUDA
#define SSSD_CUDA_ARCHITECTURES
#define SSSD_CUDA_PTX
#endif

// Compute capabilities with machine code, and with PTX, 10 * major + minor.
std::vector<int64_t> cuda_architectures() { return {SSSD_CUDA_ARCHITECTURES}; }
std::vector<int64_t> cuda_ptx() { return {SSSD_CUDA_PTX}; }

int64_t cpu_isa() { return static_cast<int64_t>(sssd::cpu_isa()); }

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(sssd, m) {
  m.def("cuda_architectures() -> int[]");
  m.def("cuda_ptx() -> int[]");
  m.def("cpu_isa() -> int");
}

STABLE_TORCH_LIBRARY_IMPL(sssd, CompositeExplicitAutograd, m) {
  m.impl("cuda_architectures", TORCH_BOX(&cuda_architectures));
  m.impl("cuda_ptx", TORCH_BOX(&cuda_ptx));
  m.impl("cpu_isa", TORCH_BOX(&cpu_isa));
}
