// Launches the kernels of one member of the family; cuda.cu chooses the member.
#pragma once

#include <atomic>

#include "kernels/divergence/cuda.h"
#include "kernels/divergence/cuda_backward.cuh"
#include "kernels/divergence/cuda_finish.cuh"
#include "kernels/divergence/cuda_planner.h"

namespace sssd::divergence {

constexpr int kMaxTiles = 0x7fffffff;
constexpr const char* kTooManyTiles = "the maps have more rows than one launch can take";

constexpr int kMostCluster = 8;  // blocks that every chip with clusters can run together

#ifdef SSSD_HOST_CUDA
inline Chip current_chip() {
  return {host_cuda::settings.shared_limit, host_cuda::settings.cluster_limit};
}
template <class Kernel>
inline void allow_shared(Kernel, int) {}
inline const char* launch_error() { return nullptr; }
#else
template <class Kernel>
inline void allow_shared(Kernel kernel, int bytes) {
  if (bytes > 48 << 10)
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

// How many blocks with all of shared memory can run together: 1 on a chip without clusters, and
// fewer than usual on a slice of one.
inline int largest_cluster(int device, int shared_bytes) {
  int clusters = 0, blocks = 1;
  cudaDeviceGetAttribute(&clusters, cudaDevAttrClusterLaunch, device);
  if (!clusters) return 1;
  const auto kernel = forward_kernel<Js, true, true>;
  allow_shared(kernel, shared_bytes);
  cudaLaunchConfig_t config{};
  config.gridDim = kMostCluster, config.blockDim = kContiguousThreads / 2;
  config.dynamicSmemBytes = shared_bytes;
  if (cudaOccupancyMaxPotentialClusterSize(&blocks, kernel, &config) != cudaSuccess) return 1;
  return floor_power_of_two(blocks, 1, kMostCluster);
}
inline Chip current_chip() {
  constexpr int kDevices = 64;
  static std::atomic<int64_t> known[kDevices];  // of each device: bytes * 16 + blocks
  int device = 0, bytes = 0;
  cudaGetDevice(&device);
  int64_t chip = device < kDevices ? known[device].load() : 0;
  if (!chip) {
    cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    chip = int64_t(bytes) * 16 + largest_cluster(device, bytes);
    if (device < kDevices) known[device] = chip;
  }
  return {chip / 16, static_cast<int>(chip % 16)};
}
inline const char* launch_error() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}
#endif

// Floats of workspace that the levels of a call need, strided and contiguous ones.
inline int64_t workspace_floats(const Levels& levels, const Settings& settings) {
  const Chip chip = current_chip();
  return workspace_floats(plan_launch(levels, settings, chip, true, false)) +
         workspace_floats(plan_launch(levels, settings, chip, false, false));
}

template <class Member, bool kStrided>
const char* forward_launch(const Launch& launch, void* stream_pointer) {
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  const int threads = launch.threads;
  const int scratch_bytes = 2 * launch.scratch * static_cast<int>(sizeof(float));
  const int chunk_bytes = threads * 2 * launch.stash_vectors * static_cast<int>(sizeof(Bits));
  const int bytes = scratch_bytes + launch.stash * chunk_bytes;
  if (const Launch cut = only_pieces(launch); cut.levels.tiles > 0) {
    using Stats = typename Member::template Stats<float>;
    const auto kernel = statistics_kernel<Stats, kStrided>;
    allow_shared(kernel, scratch_bytes);
    SSSD_LAUNCH(kernel, cut.levels.tiles, threads, scratch_bytes, stream, cut);
  }
  if (launch.levels.tiles > 0) {
    const auto kernel = launch.cluster > 1 ? forward_kernel<Member, kStrided, true>
                                           : forward_kernel<Member, kStrided, false>;
    allow_shared(kernel, bytes);
    SSSD_LAUNCH_CLUSTERS(kernel, launch.levels.tiles, threads, bytes, stream, launch.cluster,
                         launch);
  }
  SSSD_LAUNCH((finish_kernel<Member, kStrided>), launch.levels.count, kFinishThreads, 0, stream,
              launch);
  return launch_error();
}

template <class Member, bool kStrided>
const char* backward_launch(const Launch& launch, void* stream_pointer) {
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  const int bytes = launch.scratch * static_cast<int>(sizeof(float));
  const auto kernel = backward_kernel<Member, kStrided>;
  SSSD_LAUNCH(kernel, launch.levels.tiles, launch.threads, bytes, stream, launch);
  return launch_error();
}

template <class Member>
const char* forward(const Levels& levels, const Settings& settings, float* saved, float* values,
                    float* factors, float* workspace, void* stream) {
  for (const bool strided : {true, false}) {
    Launch launch = plan_launch(levels, settings, current_chip(), strided, false);
    if (launch.levels.count == 0) continue;
    if (launch.levels.tiles > kMaxTiles) return kTooManyTiles;
    launch.saved = saved, launch.values = values, launch.factors = factors;
    launch.piece_stats = workspace;
    launch.piece_sums = launch.piece_stats + 4 * launch.slots;
    launch.tile_sums = launch.piece_sums + 4 * launch.slots;
    workspace += workspace_floats(launch);
    const char* error = strided ? forward_launch<Member, true>(launch, stream)
                                : forward_launch<Member, false>(launch, stream);
    if (error) return error;
  }
  return nullptr;
}

template <class Member>
const char* backward(const Levels& levels, const Settings& settings, const float* saved,
                     const float* factors, const float* grad_values, void* stream) {
  for (const bool strided : {true, false}) {
    Launch launch = plan_launch(levels, settings, {}, strided, true);
    if (launch.levels.tiles == 0) continue;
    if (launch.levels.tiles > kMaxTiles) return kTooManyTiles;
    launch.saved = const_cast<float*>(saved), launch.factors = const_cast<float*>(factors);
    launch.grad_values = grad_values;
    const char* error = strided ? backward_launch<Member, true>(launch, stream)
                                : backward_launch<Member, false>(launch, stream);
    if (error) return error;
  }
  return nullptr;
}

}  // namespace sssd::divergence
