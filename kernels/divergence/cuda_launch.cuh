// Launches the kernels of one member of the family; cuda.cu chooses the member.
#pragma once

#include "kernels/divergence/cuda.h"
#include "kernels/divergence/cuda_backward.cuh"
#include "kernels/divergence/cuda_forward.cuh"
#include "kernels/divergence/cuda_planner.h"

namespace sssd::divergence {

constexpr int kMaxTiles = 0x7fffffff;
constexpr const char* kTooManyTiles = "the maps have more rows than one launch can take";

#ifdef SSSD_HOST_CUDA
inline int shared_memory_limit() { return host_cuda::settings.shared_limit; }
template <class Kernel>
inline void allow_shared(Kernel, int) {}
inline const char* launch_error() { return nullptr; }
#else
inline int shared_memory_limit() {
  int device = 0, bytes = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  return bytes;
}
template <class Kernel>
inline void allow_shared(Kernel kernel, int bytes) {
  if (bytes > 48 << 10)
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}
inline const char* launch_error() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}
#endif

template <class Member, bool kStrided>
const char* forward_launch(Launch launch, int threads, void* stream_pointer) {
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  const int scratch_bytes = 2 * launch.scratch * static_cast<int>(sizeof(float));
  const int chunk_bytes = threads * 2 * launch.stash_vectors * static_cast<int>(sizeof(Bits));
  launch.stash = max(0, min(launch.stash, (shared_memory_limit() - scratch_bytes) / chunk_bytes));
  const int bytes = scratch_bytes + launch.stash * chunk_bytes;
  if (launch.slots > 0) {
    const Launch cut = only_pieces(launch);
    using Stats = typename Member::template Stats<float>;
    const auto kernel = statistics_kernel<Stats, kStrided>;
    allow_shared(kernel, scratch_bytes);
    SSSD_LAUNCH(kernel, cut.levels.tiles, threads, scratch_bytes, stream, cut);
  }
  if (launch.levels.tiles > 0) {
    const auto kernel = forward_kernel<Member, kStrided>;
    allow_shared(kernel, bytes);
    SSSD_LAUNCH(kernel, launch.levels.tiles, threads, bytes, stream, launch);
  }
  SSSD_LAUNCH((finish_kernel<Member, kStrided>), launch.levels.count, kFinishThreads, 0, stream,
              launch);
  return launch_error();
}

template <class Member, bool kStrided>
const char* backward_launch(const Launch& launch, int threads, void* stream_pointer) {
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  const int bytes = launch.scratch * static_cast<int>(sizeof(float));
  const auto kernel = backward_kernel<Member, kStrided>;
  SSSD_LAUNCH(kernel, launch.levels.tiles, threads, bytes, stream, launch);
  return launch_error();
}

template <class Member>
const char* forward(const Levels& levels, const Settings& settings, float* saved, float* values,
                    float* factors, float* workspace, void* stream) {
  for (const bool strided : {true, false}) {
    int threads;
    Launch launch = plan_launch(levels, settings, strided, false, threads);
    if (launch.levels.count == 0) continue;
    if (launch.levels.tiles > kMaxTiles) return kTooManyTiles;
    launch.saved = saved, launch.values = values, launch.factors = factors;
    launch.piece_stats = workspace;
    launch.piece_sums = launch.piece_stats + 4 * launch.slots;
    launch.tile_sums = launch.piece_sums + 4 * launch.slots;
    workspace += workspace_floats(launch);
    const char* error = strided ? forward_launch<Member, true>(launch, threads, stream)
                                : forward_launch<Member, false>(launch, threads, stream);
    if (error) return error;
  }
  return nullptr;
}

template <class Member>
const char* backward(const Levels& levels, const Settings& settings, const float* saved,
                     const float* factors, const float* grad_values, void* stream) {
  for (const bool strided : {true, false}) {
    int threads;
    Launch launch = plan_launch(levels, settings, strided, true, threads);
    if (launch.levels.tiles == 0) continue;
    if (launch.levels.tiles > kMaxTiles) return kTooManyTiles;
    launch.saved = const_cast<float*>(saved), launch.factors = const_cast<float*>(factors);
    launch.grad_values = grad_values;
    const char* error = strided ? backward_launch<Member, true>(launch, threads, stream)
                                : backward_launch<Member, false>(launch, threads, stream);
    if (error) return error;
  }
  return nullptr;
}

}  // namespace sssd::divergence
