// Label heatmaps on CUDA: a block writes a tile of cells of one image and class, a thread each
// cell.
#pragma once

#include "kernels/boxes/cuda_tile.cuh"
#include "kernels/boxes/stamp.h"

namespace sssd::boxes_cuda {

// Objects of one image and class that meet a tile, as many as a block has threads at a time.
struct DrawShared {
  uint32_t votes[kWarps];
  CellSpan window[kThreads];
  float row[kThreads], column[kThreads];  // of the centre, counted from the tile's first cell
  float per_row[kThreads], per_column[kThreads], strength[kThreads];
};

// A pyramid's row and column are in units of its own size, so that the largest boxes stay finite.
__device__ __forceinline__ float profile_at(Profile profile, float down, float right, int k,
                                            const DrawShared& shared) {
  const float per_row = shared.per_row[k], per_column = shared.per_column[k];
  if (profile == Profile::box) return 1.0f;
  if (profile == Profile::pyramid)
    return 1.0f - fmaxf(fabsf(down * per_row - shared.row[k]),
                        fabsf(right * per_column - shared.column[k]));
  down -= shared.row[k], right -= shared.column[k];
  return expf(-(down * down * per_row + right * right * per_column));
}

__device__ __forceinline__ void keep_stamp(const HeatmapProblem& problem, const Tile& tile,
                                           const Stamp& stamp, int64_t t, int place,
                                           DrawShared& shared) {
  const bool pyramid = problem.profile == Profile::pyramid;
  const double row = stamp.row - tile.top, column = stamp.column - tile.left;
  shared.window[place] = stamp.window;
  shared.row[place] = static_cast<float>(pyramid ? row / stamp.row_scale : row);
  shared.column[place] = static_cast<float>(pyramid ? column / stamp.column_scale : column);
  shared.per_row[place] = static_cast<float>(1 / stamp.row_scale);
  shared.per_column[place] = static_cast<float>(1 / stamp.column_scale);
  shared.strength[place] = problem.strength == nullptr ? 1.0f : problem.strength[t];
}

// The heat of this thread's cell from the objects of one image and class, and whether any of them
// meets the tile. All threads call it.
__device__ __forceinline__ float heat_at(const HeatmapProblem& problem, const Tile& tile,
                                         int32_t image, int32_t label, DrawShared& shared,
                                         bool& any) {
  const int down = threadIdx.x / kTileColumns, right = threadIdx.x % kTileColumns;
  float heat = 0;
  any = false;
  for (int64_t first = 0; first < problem.objects.count; first += kThreads) {
    const int64_t t = first + threadIdx.x;
    Stamp stamp = {};
    if (t < problem.objects.count && problem.objects.image_of(t) == image &&
        problem.label_of(t) == label)
      stamp = stamp_of(problem, tile.level, t);
    int found;
    const bool keep = tile.meets(stamp.window);
    const int place = place_in_order(keep, shared.votes, found);
    if (keep) keep_stamp(problem, tile, stamp, t, place, shared);
    __syncthreads();
    any = any || found > 0;
    for (int k = 0; k < found; ++k) {
      if (!shared.window[k].holds(tile.top + down, tile.left + right)) continue;
      const float value = shared.strength[k] * profile_at(problem.profile, down, right, k, shared);
      heat = problem.combine == Combine::max ? fmaxf(heat, value) : heat + value;
    }
    __syncthreads();
  }
  return heat;
}

template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    heatmap_kernel(const __grid_constant__ HeatmapProblem problem,
                   const __grid_constant__ TilePlan plan) {
  SSSD_SHARED(DrawShared, shared);
  const Tile tile(plan, problem.levels);
  const BoxLevel& map = problem.levels.level[tile.level];
  bool any;
  const float heat = heat_at(problem, tile, tile.depth / problem.classes,
                             tile.depth % problem.classes, shared, any);
  const int32_t row = tile.top + threadIdx.x / kTileColumns;
  const int32_t column = tile.left + threadIdx.x % kTileColumns;
  if (row < map.size.height && column < map.size.width)
    write<T>(map.map, tile.depth * map.cells() + int64_t{row} * map.size.width + column, heat);
}

}  // namespace sssd::boxes_cuda
