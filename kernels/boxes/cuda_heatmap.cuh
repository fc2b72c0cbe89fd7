// Label heatmaps on CUDA: a block writes a tile of cells of one image and class, a thread each
// cell.
#pragma once

#include "kernels/boxes/cuda_prepare.cuh"

namespace sssd::boxes_cuda {

// Objects of one image and class that meet a tile, as many as a block has threads at a time.
struct DrawShared {
  uint32_t votes[kWarps];
  CellSpan window[kThreads];
  Bits course[kThreads];  // of the profile over the window: see stamps_kernel
  float strength[kThreads];
};

// The profile of object `k` at a cell of its window.
__device__ __forceinline__ float profile_at(Profile profile, int32_t row, int32_t column, int k,
                                            const DrawShared& shared) {
  if (profile == Profile::box) return 1.0f;
  const uint32_t* course = shared.course[k].word;
  const float first_row = device::float_from_bits(course[0]);
  const float first_column = device::float_from_bits(course[1]);
  const float per_row = device::float_from_bits(course[2]);
  const float per_column = device::float_from_bits(course[3]);
  float down = static_cast<float>(row - shared.window[k].top);
  float right = static_cast<float>(column - shared.window[k].left);
  if (profile == Profile::pyramid)
    return 1.0f - fmaxf(fabsf(fmaf(down, per_row, first_row)),
                        fabsf(fmaf(right, per_column, first_column)));
  down += first_row, right += first_column;  // whole numbers
  return expf(-(down * down * per_row + right * right * per_column));
}

// The heat of this thread's cell from the objects of one image and class. All threads call it.
__device__ __forceinline__ float heat_at(const HeatmapProblem& problem, const Bits* stamps,
                                         const Tile& tile, int32_t image, int32_t label,
                                         DrawShared& shared) {
  const int32_t row = tile.top + static_cast<int32_t>(threadIdx.x / kTileColumns);
  const int32_t column = tile.left + static_cast<int32_t>(threadIdx.x % kTileColumns);
  const int64_t plane = problem.levels.count * problem.objects.count;
  float heat = 0;
  for (int64_t first = 0; first < problem.objects.count; first += kThreads) {
    const int64_t t = first + threadIdx.x;
    const int64_t at = tile.level * problem.objects.count + t;
    CellSpan window = {0, 0, 0, 0};
    if (t < problem.objects.count && problem.objects.image_of(t) == image &&
        problem.label_of(t) == label)
      window = read_span(stamps, at);
    int found;
    const bool keep = tile.meets(window);
    const int place = place_in_order(keep, shared.votes, found);
    if (keep) {
      shared.window[place] = window;
      shared.course[place] = device::load(stamps + plane + at);
      shared.strength[place] = problem.strength == nullptr ? 1.0f : problem.strength[t];
    }
    __syncthreads();
    for (int k = 0; k < found; ++k) {
      if (!shared.window[k].holds(row, column)) continue;
      const float value = shared.strength[k] * profile_at(problem.profile, row, column, k, shared);
      heat = problem.combine == Combine::max ? fmaxf(heat, value) : heat + value;
    }
    __syncthreads();
  }
  return heat;
}

template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    heatmap_kernel(const __grid_constant__ HeatmapProblem problem,
                   const __grid_constant__ TilePlan plan, const Bits* stamps) {
  SSSD_SHARED(DrawShared, shared);
  const Tile tile(plan, problem.levels);
  const BoxLevel& map = problem.levels.level[tile.level];
  const float heat = heat_at(problem, stamps, tile, tile.depth / problem.classes,
                             tile.depth % problem.classes, shared);
  const int32_t row = tile.top + threadIdx.x / kTileColumns;
  const int32_t column = tile.left + threadIdx.x % kTileColumns;
  if (row < map.size.height && column < map.size.width)
    write<T>(map.map, tile.depth * map.cells() + int64_t{row} * map.size.width + column, heat);
}

}  // namespace sssd::boxes_cuda
