// Paint on CUDA: a block writes a tile of cells for some channels of one image. It finds the
// objects that meet the tile, in their order, brings their vectors into shared memory, and every
// thread sums those that cover its cells.
#pragma once

#include "kernels/boxes/cuda_prepare.cuh"

namespace sssd::boxes_cuda {

constexpr int kStaged = 64;     // objects whose vectors are in shared memory at a time
constexpr int kNeighbours = 4;  // channels side by side that a thread of a channels-last tile takes

// Which 32 (cell, channel) pairs of the tile a thread sums: contiguous maps, one cell and all
// channels, so that a warp writes a row of cells; channels-last, four channels of eight cells of a
// row, so that a warp writes whole cells.
template <bool kLast>
struct Share {
  static constexpr int kCells = kLast ? kChannels / kNeighbours : 1;
  static constexpr int kEach = kChannels / kCells;  // channels of each cell

  static __device__ __forceinline__ int row() { return threadIdx.x / device::kWarp; }
  static __device__ __forceinline__ int column(int cell) {
    const int lane = threadIdx.x % device::kWarp;
    return kLast ? lane / kCells + cell * (device::kWarp / kCells) : lane;
  }
  static __device__ __forceinline__ int channel() {
    return kLast ? threadIdx.x % device::kWarp % kCells * kNeighbours : 0;
  }
};

struct PaintShared {
  uint32_t votes[kWarps];
  CellSpan span[kThreads];
  int64_t object[kThreads];
  float value[kStaged][kChannels];
};

// Adds objects `begin` .. of the list, at most kStaged, to the thread's sums.
template <class T, bool kLast>
__device__ __forceinline__ void add_staged(const PaintProblem& problem, const Tile& tile,
                                           int64_t channel, int begin, int found,
                                           PaintShared& shared, float* sum) {
  using Mine = Share<kLast>;
  const int staged = found - begin < kStaged ? found - begin : kStaged;
  const int64_t level_offset = tile.level * problem.value_level_stride;
  for (int i = threadIdx.x; i < staged * kChannels; i += kThreads) {
    const int object = i / kChannels, c = i % kChannels;
    const int64_t at = shared.object[begin + object] * problem.channels + channel + c;
    float value =
        channel + c < problem.channels ? read<T>(problem.values, level_offset + at) : 0.0f;
    if (problem.mean) value /= static_cast<float>(shared.span[begin + object].cells());
    shared.value[object][c] = value;
  }
  __syncthreads();
  const int32_t row = tile.top + Mine::row();
  for (int k = 0; k < staged; ++k) {
    const CellSpan span = shared.span[begin + k];
    if (!span.in_row(row)) continue;  // the whole warp
    const float* value = shared.value[k] + Mine::channel();
#pragma unroll
    for (int cell = 0; cell < Mine::kCells; ++cell) {
      const int32_t column = tile.left + Mine::column(cell);
      if (column < span.left || column >= span.right) continue;
#pragma unroll
      for (int c = 0; c < Mine::kEach; ++c) sum[cell * Mine::kEach + c] += value[c];
    }
  }
  __syncthreads();
}

template <class T, bool kLast>
__device__ __forceinline__ void paint_tile(const PaintProblem& problem, const Bits* spans,
                                           const Tile& tile, PaintShared& shared) {
  using Mine = Share<kLast>;
  const BoxLevel& map = problem.levels.level[tile.level];
  const int64_t image = tile.depth % problem.batch;
  const int64_t channel = tile.depth / problem.batch * kChannels;
  float sum[kChannels] = {};
  for (int64_t first = 0; first < problem.objects.count; first += kThreads) {
    const int64_t t = first + threadIdx.x;
    CellSpan span = {0, 0, 0, 0};
    if (t < problem.objects.count && problem.objects.image_of(t) == image)
      span = read_span(spans, tile.level * problem.objects.count + t);
    int found;
    const bool keep = tile.meets(span);
    const int place = place_in_order(keep, shared.votes, found);
    if (keep) {
      shared.span[place] = span;
      shared.object[place] = t;
    }
    __syncthreads();
    for (int begin = 0; begin < found; begin += kStaged)
      add_staged<T, kLast>(problem, tile, channel, begin, found, shared, sum);
  }
  const int32_t row = tile.top + Mine::row();
  if (row >= map.size.height) return;
#pragma unroll
  for (int cell = 0; cell < Mine::kCells; ++cell) {
    const int32_t column = tile.left + Mine::column(cell);
    if (column >= map.size.width) continue;
    const int64_t at = int64_t{row} * map.size.width + column;
    const int64_t k = channel + Mine::channel();
    const float* mine = sum + cell * Mine::kEach;
    if constexpr (kLast) {
      if (problem.channels % kNeighbours == 0) {
        if (k < problem.channels)
          write_four<T>(map.map, (image * map.cells() + at) * problem.channels + k, mine);
        continue;
      }
    }
#pragma unroll
    for (int c = 0; c < Mine::kEach; ++c) {
      if (k + c >= problem.channels) continue;
      const int64_t place = kLast ? (image * map.cells() + at) * problem.channels + k + c
                                  : (image * problem.channels + k + c) * map.cells() + at;
      write<T>(map.map, place, mine[c]);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    paint_kernel(const __grid_constant__ PaintProblem problem,
                 const __grid_constant__ TilePlan plan, const Bits* spans) {
  SSSD_SHARED(PaintShared, shared);
  const Tile tile(plan, problem.levels);
  if (problem.levels.level[tile.level].channels_last) {
    paint_tile<T, true>(problem, spans, tile, shared);
  } else {
    paint_tile<T, false>(problem, spans, tile, shared);
  }
}

}  // namespace sssd::boxes_cuda
