// Embedded label heatmaps on CUDA, for contiguous maps. A class at a time, a tile's heat is drawn
// into registers, a cell a thread; the (B, K, H, W) heatmap never exists.
#pragma once

#include "kernels/boxes/cuda_heatmap.cuh"

namespace sssd::boxes_cuda {

// The next class above `after` of which an image has objects.
__device__ __forceinline__ int32_t next_class(const HeatmapProblem& problem, int64_t image,
                                              int32_t after, DrawShared& shared) {
  return next_key(problem.objects.count, after, shared.votes, [&](int64_t t) {
    const int64_t label = problem.label_of(t);
    const bool fits = problem.objects.image_of(t) == image && label >= 0 && label < problem.classes;
    return fits ? static_cast<int32_t>(label) : kNoKey;
  });
}

// The next image above `after` that has objects of a class.
__device__ __forceinline__ int32_t next_image(const HeatmapProblem& problem, int64_t label,
                                              int32_t after, DrawShared& shared) {
  return next_key(problem.objects.count, after, shared.votes, [&](int64_t t) {
    const int64_t image = problem.objects.image_of(t);
    const bool fits = problem.label_of(t) == label && image >= 0 && image < problem.batch;
    return fits ? static_cast<int32_t>(image) : kNoKey;
  });
}

// A block writes a tile of cells for some channels of one image.
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    embed_kernel(const __grid_constant__ EmbedProblem problem,
                 const __grid_constant__ TilePlan plan) {
  SSSD_SHARED(DrawShared, shared);
  SSSD_SHARED(float, vector, [kChannels]);
  const HeatmapProblem& heatmap = problem.heatmap;
  const Tile tile(plan, heatmap.levels);
  const BoxLevel& map = heatmap.levels.level[tile.level];
  // As numbers of 32 bits they leave registers for the sums.
  const int32_t image = static_cast<int32_t>(tile.depth % heatmap.batch);
  const int32_t channel = static_cast<int32_t>(tile.depth / heatmap.batch) * kChannels;
  float sum[kChannels] = {};
  for (int32_t label = next_class(heatmap, image, -1, shared); label != kNoKey;
       label = next_class(heatmap, image, label, shared)) {
    bool any;
    const float heat = heat_at(heatmap, tile, image, label, shared, any);
    if (!any) continue;
    const int32_t c = channel + static_cast<int32_t>(threadIdx.x);
    if (threadIdx.x < kChannels)
      vector[threadIdx.x] =
          c < problem.channels ? read<T>(problem.embedding, label * problem.channels + c) : 0.0f;
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kChannels; ++k) sum[k] += heat * vector[k];
  }
  const int32_t row = tile.top + threadIdx.x / kTileColumns;
  const int32_t column = tile.left + threadIdx.x % kTileColumns;
  if (row >= map.size.height || column >= map.size.width) return;
  const int64_t at = int64_t{row} * map.size.width + column;
#pragma unroll
  for (int k = 0; k < kChannels; ++k)
    if (channel + k < problem.channels)
      write<T>(map.map, (image * problem.channels + (channel + k)) * map.cells() + at, sum[k]);
}

// The gradient of the vectors from one row of tiles: a block takes one class and some channels, a
// warp a few of these. partials (rows of tiles, K, C).
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    embed_backward_kernel(const __grid_constant__ EmbedProblem problem,
                          const __grid_constant__ TilePlan plan, float* partials) {
  SSSD_SHARED(DrawShared, shared);
  SSSD_SHARED(float, heat, [kTileRows][kTileColumns]);
  constexpr int kEach = kChannels / kWarps;
  const HeatmapProblem& heatmap = problem.heatmap;
  Tile tile(plan, heatmap.levels);
  const BoxLevel& map = heatmap.levels.level[tile.level];
  const int warp = threadIdx.x / device::kWarp, lane = threadIdx.x % device::kWarp;
  const int64_t label = tile.depth % heatmap.classes;
  const int64_t channel = tile.depth / heatmap.classes * kChannels + warp * kEach;
  const int32_t rows =
      map.size.height - tile.top < kTileRows ? map.size.height - tile.top : kTileRows;
  float sum[kEach] = {};
  for (int32_t image = next_image(heatmap, label, -1, shared); image != kNoKey;
       image = next_image(heatmap, label, image, shared)) {
    for (tile.left = 0; tile.left < map.size.width; tile.left += kTileColumns) {
      bool any;
      const float mine = heat_at(heatmap, tile, image, label, shared, any);
      if (!any) continue;
      heat[threadIdx.x / kTileColumns][threadIdx.x % kTileColumns] = mine;
      __syncthreads();
      for (int k = 0; k < kEach && channel + k < problem.channels; ++k) {
        const int64_t first = (image * problem.channels + channel + k) * map.cells() +
                              int64_t{tile.top} * map.size.width + tile.left + lane;
        for (int32_t i = 0; i < rows; ++i)  // no heat, no gradient, whatever the map holds
          if (heat[i][lane] != 0.0f)
            sum[k] += heat[i][lane] * read<T>(map.map, first + int64_t{i} * map.size.width);
      }
      __syncthreads();
    }
  }
  const int64_t strip = blockIdx.x / plan.depth;
  for (int k = 0; k < kEach; ++k) {
    for (int mask = device::kWarp / 2; mask > 0; mask /= 2)
      sum[k] += device::shuffle_xor(sum[k], mask);
    if (lane == 0 && channel + k < problem.channels)
      partials[(strip * heatmap.classes + label) * problem.channels + channel + k] = sum[k];
  }
}

// Adds the partial sums in the order of the strips; a thread takes one of `count` results.
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    add_strips_kernel(const float* partials, int64_t strips, int64_t count, void* result) {
  const int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (at >= count) return;
  float sum = 0;
  for (int64_t strip = 0; strip < strips; ++strip)
    sum += device::load(partials + strip * count + at);
  write<T>(result, at, sum);
}

}  // namespace sssd::boxes_cuda
