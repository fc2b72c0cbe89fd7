// What this build holds, for sssd.ops.backends and for bug reports.
#include <torch/csrc/stable/library.h>

#include <vector>

#include "kernels/common/cpu_isa.h"

namespace {

// Compute capabilities with machine code, 10 * major + minor; the newest is also there as PTX.
std::vector<int64_t> cuda_architectures() {
#ifdef SSSD_WITH_CUDA
  return {SSSD_CUDA_ARCHITECTURES};
#else
  return {};
#endif
}

int64_t cpu_isa() { return static_cast<int64_t>(sssd::cpu_isa()); }

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(sssd, m) {
  m.def("cuda_architectures() -> int[]");
  m.def("cpu_isa() -> int");
}

STABLE_TORCH_LIBRARY_IMPL(sssd, CompositeExplicitAutograd, m) {
  m.impl("cuda_architectures", TORCH_BOX(&cuda_architectures));
  m.impl("cpu_isa", TORCH_BOX(&cpu_isa));
}
