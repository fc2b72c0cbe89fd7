// Pool on CUDA: a block sums one object on one level for some channels, in an order that is fixed.
#pragma once

#include "kernels/boxes/cuda_prepare.cuh"

namespace sssd::boxes_cuda {

struct PoolShared {
  float part[kWarps][kChannels];
};

// Contiguous maps: a warp takes every eighth channel, its lanes the cells of the span, row after
// row. A cell is loaded from all these channels before any is added: a load waits for no other.
template <class T>
__device__ __forceinline__ void sum_planes(const PoolProblem& problem, const BoxLevel& map,
                                           int64_t image, int64_t channel, const CellSpan& span,
                                           PoolShared& shared) {
  const int warp = threadIdx.x / device::kWarp, lane = threadIdx.x % device::kWarp;
  const int32_t columns = span.right - span.left, rows = span.bottom - span.top;
  // The lanes lie over rows x columns as they come: 32 / columns rows at a time if the span is
  // narrow.
  const int32_t across = columns < device::kWarp ? columns : device::kWarp;
  const int32_t down = device::kWarp / across;
  const int32_t column = lane % across, row = lane / across;
  constexpr int kEach = kChannels / kWarps;
  static_assert(kChannels % kWarps == 0);
  const int64_t plane = (image * problem.channels + channel + warp) * map.cells();
  float sum[kEach] = {};
  if (row < down)
    for (int32_t i = row; i < rows; i += down)
      for (int32_t j = column; j < columns; j += across) {
        const int64_t cell = plane + int64_t{span.top + i} * map.size.width + span.left + j;
        float value[kEach];
#pragma unroll
        for (int k = 0; k < kEach; ++k) {
          const bool exists = channel + warp + k * kWarps < problem.channels;
          value[k] = exists ? read<T>(map.map, cell + k * kWarps * map.cells()) : 0.0f;
        }
#pragma unroll
        for (int k = 0; k < kEach; ++k) sum[k] += value[k];
      }
#pragma unroll
  for (int k = 0; k < kEach; ++k) {
    for (int mask = device::kWarp / 2; mask > 0; mask /= 2)
      sum[k] += device::shuffle_xor(sum[k], mask);
    if (lane == 0) shared.part[0][warp + k * kWarps] = sum[k];
  }
  __syncthreads();
}

// Channels-last: a lane takes a channel, the warps share the cells.
template <class T>
__device__ __forceinline__ void sum_cells(const PoolProblem& problem, const BoxLevel& map,
                                          int64_t image, int64_t channel, const CellSpan& span,
                                          PoolShared& shared) {
  const int warp = threadIdx.x / device::kWarp, lane = threadIdx.x % device::kWarp;
  float sum = 0;
  if (channel + lane < problem.channels) {
    for (int32_t i = span.top; i < span.bottom; ++i) {
      const int64_t row = image * map.cells() + int64_t{i} * map.size.width;
      for (int32_t j = span.left + warp; j < span.right; j += kWarps)
        sum += read<T>(map.map, (row + j) * problem.channels + channel + lane);
    }
  }
  shared.part[warp][lane] = sum;
  __syncthreads();
  if (warp == 0) {
    for (int w = 1; w < kWarps; ++w) sum += shared.part[w][lane];
    shared.part[0][lane] = sum;
  }
  __syncthreads();
}

// Blocks: object, then level, then block of channels, the channels fastest.
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    pool_kernel(const __grid_constant__ PoolProblem problem, const Bits* spans) {
  SSSD_SHARED(PoolShared, shared);
  const int64_t blocks = (problem.channels + kChannels - 1) / kChannels;
  const int64_t channel = blockIdx.x % blocks * kChannels;
  const int level = static_cast<int>(blockIdx.x / blocks % problem.levels.count);
  const int64_t t = blockIdx.x / blocks / problem.levels.count;
  const BoxLevel& map = problem.levels.level[level];
  const int64_t image = problem.objects.image_of(t);
  const CellSpan span = read_span(spans, level * problem.objects.count + t);
  if (!span.empty()) {
    if (map.channels_last) {
      sum_cells<T>(problem, map, image, channel, span, shared);
    } else {
      sum_planes<T>(problem, map, image, channel, span, shared);
    }
  }
  const int c = threadIdx.x;
  if (c >= kChannels || channel + c >= problem.channels) return;
  float sum = span.empty() ? 0.0f : shared.part[0][c];
  if (problem.mean && !span.empty()) sum /= static_cast<float>(span.cells());
  write<T>(problem.pooled, (level * problem.objects.count + t) * problem.channels + channel + c,
           sum);
}

}  // namespace sssd::boxes_cuda
