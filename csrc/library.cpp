// Schemas of what both libraries answer, and which instruction set the CPU kernels chose. This
// library defines, the CUDA library (csrc/library_cuda.cpp) adds implementations alone. The
// operators' own schemas are in sssd/ops.
#include <torch/csrc/stable/library.h>

#include "kernels/common/cpu_isa.h"

namespace {

int64_t cpu_isa() { return static_cast<int64_t>(sssd::cpu_isa()); }

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(SSSD_NAMESPACE, m) {
  m.def("cpu_isa() -> int");
  m.def("divergence_planes(int normalize, int divergence) -> int");
  m.def("cuda_architectures() -> int[]");
  m.def("cuda_ptx() -> int[]");
  m.def("cuda_runtime() -> int");
  m.def("cuda_driver() -> int");
}

STABLE_TORCH_LIBRARY_IMPL(SSSD_NAMESPACE, CompositeExplicitAutograd, m) {
  m.impl("cpu_isa", TORCH_BOX(&cpu_isa));
}
