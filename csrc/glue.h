// What every operator's glue needs between torch's stable ABI and the kernels' plain data.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#ifdef SSSD_CUDA_LIBRARY
#include <torch/csrc/stable/accelerator.h>
#endif

#include "kernels/common/dtype.h"
#include "kernels/common/large_pages.h"

// Registers a function of this name as the operator, for the device of the library that is
// compiled: an operator's file is compiled once for each.
#define SSSD_ON(device, name) \
  STABLE_TORCH_LIBRARY_IMPL(SSSD_NAMESPACE, device, m) { m.impl(#name, TORCH_BOX(&name)); }
#ifdef SSSD_CUDA_LIBRARY
#define SSSD_OPERATOR(name) SSSD_ON(CUDA, name)
#else
#define SSSD_OPERATOR(name) SSSD_ON(CPU, name)
#endif

namespace sssd::glue {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Dtype dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return Dtype::f32;
    case ScalarType::Double:
      return Dtype::f64;
    case ScalarType::BFloat16:
      return Dtype::bf16;
    case ScalarType::Half:
      return Dtype::f16;
    default:
      STD_TORCH_CHECK(false, "maps must be float32, float64, bfloat16 or float16");
  }
}

// Dense with the channels last, and not also contiguous, as a map of one cell is.
inline bool is_channels_last(const Tensor& map) {
  if (map.is_contiguous()) return false;
  const auto size = map.sizes(), stride = map.strides();
  const int64_t expected[4] = {size[1] * size[2] * size[3], 1, size[1] * size[3], size[1]};
  for (int d = 0; d < 4; ++d)
    if (size[d] != 1 && stride[d] != expected[d]) return false;
  return true;
}

// A tensor of the same shape, dtype and memory format, to be written once.
inline Tensor new_like(const Tensor& map) {
  Tensor result = torch::stable::empty_like(map);
  if (result.is_cpu())
    prefer_large_pages(result.mutable_data_ptr(), result.numel() * result.element_size());
  return result;
}

// torch's own threads; a task is large enough to be one's whole share.
inline void parallel_tasks(int64_t tasks, void (*body)(int64_t, int64_t, void*), void* context) {
  torch::stable::parallel_for(0, tasks, 1,
                              [=](int64_t begin, int64_t end) { body(begin, end, context); });
}

#ifdef SSSD_CUDA_LIBRARY
// The stream that torch works on, of the device a tensor is on.
inline void* current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return stream;
}

// A launcher's message about what CUDA refused, as an exception.
inline void throw_if(const char* message) { STD_TORCH_CHECK(!message, message); }
#endif

}  // namespace sssd::glue
