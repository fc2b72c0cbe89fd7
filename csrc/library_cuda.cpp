// What the CUDA library holds, for sssd.ops.dispatch and for bug reports.
#include <cuda_runtime_api.h>
#include <torch/csrc/stable/library.h>

#include <vector>

namespace {

// Compute capabilities with machine code, and with PTX, 10 * major + minor.
std::vector<int64_t> cuda_architectures() { return {SSSD_CUDA_ARCHITECTURES}; }
std::vector<int64_t> cuda_ptx() { return {SSSD_CUDA_PTX}; }

// The runtime linked into it, 1000 * major + 10 * minor: a driver of that major version runs it.
int64_t cuda_runtime() { return CUDART_VERSION; }

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(SSSD_NAMESPACE, CompositeExplicitAutograd, m) {
  m.impl("cuda_architectures", TORCH_BOX(&cuda_architectures));
  m.impl("cuda_ptx", TORCH_BOX(&cuda_ptx));
  m.impl("cuda_runtime", TORCH_BOX(&cuda_runtime));
}
