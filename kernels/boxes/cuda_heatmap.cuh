// Label heatmaps on CUDA: a block writes a tile of cells of one image and class, a thread each
// cell.
#pragma once

#include "kernels/boxes/cuda_tile.cuh"
#include "kernels/boxes/stamp.h"

namespace sssd::boxes_cuda {

struct HeatmapShared {
  uint32_t votes[kWarps];
  CellSpan window[kThreads];
  float row[kThreads], column[kThreads];  // of the centre, counted from the tile's first cell
  float per_row[kThreads], per_column[kThreads], strength[kThreads];
};

__device__ __forceinline__ float profile_at(Profile profile, float down, float right, float per_row,
                                            float per_column) {
  if (profile == Profile::box) return 1.0f;
  if (profile == Profile::pyramid)
    return 1.0f - fmaxf(fabsf(down) * per_row, fabsf(right) * per_column);
  return expf(-(down * down * per_row + right * right * per_column));
}

template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    heatmap_kernel(const __grid_constant__ HeatmapProblem problem,
                   const __grid_constant__ TilePlan plan) {
  __shared__ HeatmapShared shared;
  const Tile tile(plan, problem.levels);
  const BoxLevel& map = problem.levels.level[tile.level];
  const int64_t image = tile.depth / problem.classes, label = tile.depth % problem.classes;
  const int down = threadIdx.x / kTileColumns, right = threadIdx.x % kTileColumns;
  const int32_t row = tile.top + down, column = tile.left + right;
  float heat = 0;
  for (int64_t first = 0; first < problem.objects.count; first += kThreads) {
    const int64_t t = first + threadIdx.x;
    Stamp stamp = {};
    if (t < problem.objects.count && problem.objects.image_of(t) == image &&
        problem.label_of(t) == label)
      stamp = stamp_of(problem, tile.level, t);
    int found;
    const bool keep = tile.meets(stamp.window);
    const int place = place_in_order(keep, shared.votes, found);
    if (keep) {
      shared.window[place] = stamp.window;
      shared.row[place] = static_cast<float>(stamp.row - tile.top);
      shared.column[place] = static_cast<float>(stamp.column - tile.left);
      shared.per_row[place] = 1.0f / static_cast<float>(stamp.row_scale);
      shared.per_column[place] = 1.0f / static_cast<float>(stamp.column_scale);
      shared.strength[place] = problem.strength == nullptr ? 1.0f : problem.strength[t];
    }
    __syncthreads();
    for (int k = 0; k < found; ++k) {
      if (!shared.window[k].holds(row, column)) continue;
      const float value = shared.strength[k] * profile_at(problem.profile, down - shared.row[k],
                                                          right - shared.column[k],
                                                          shared.per_row[k], shared.per_column[k]);
      heat = problem.combine == Combine::max ? fmaxf(heat, value) : heat + value;
    }
    __syncthreads();
  }
  if (row < map.size.height && column < map.size.width)
    write<T>(
        map.map,
        (image * problem.classes + label) * map.cells() + int64_t{row} * map.size.width + column,
        heat);
}

}  // namespace sssd::boxes_cuda
