// Label heatmaps on CUDA: a block writes a tile of cells of one image and a few classes, a thread
// each cell. Most tiles of most classes are empty: what costs is to look at all objects, once a
// block.
#pragma once

#include "kernels/boxes/cuda_prepare.cuh"

namespace sssd::boxes_cuda {

constexpr int kClasses = 8;  // that one block takes
SSSD_HOST_DEVICE inline int64_t class_blocks(int64_t classes) {
  return (classes + kClasses - 1) / kClasses;
}

// Objects of these classes in one image that meet a tile, as many as a block has threads at a time.
struct DrawShared {
  uint32_t votes[kWarps];
  int32_t label[kThreads];  // counted from the block's first class
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

// The heat of this thread's cell in each class from the objects of one image. All threads call it.
__device__ __forceinline__ void draw(const HeatmapProblem& problem, const Bits* stamps,
                                     const Tile& tile, int64_t image, int64_t first_label,
                                     DrawShared& shared, float (&heat)[kClasses]) {
  const int32_t row = tile.top + static_cast<int32_t>(threadIdx.x / kTileColumns);
  const int32_t column = tile.left + static_cast<int32_t>(threadIdx.x % kTileColumns);
  const int64_t plane = problem.levels.count * problem.objects.count;
  for (int64_t first = 0; first < problem.objects.count; first += kThreads) {
    const int64_t t = first + threadIdx.x;
    const int64_t at = tile.level * problem.objects.count + t;
    CellSpan window = {0, 0, 0, 0};
    int64_t label = -1;
    if (t < problem.objects.count && problem.objects.image_of(t) == image)
      label = problem.label_of(t) - first_label;
    if (label >= 0 && label < kClasses) window = read_span(stamps, at);
    int found;
    const bool keep = tile.meets(window);
    const int place = place_in_order(keep, shared.votes, found);
    if (keep) {
      shared.window[place] = window;
      shared.label[place] = static_cast<int32_t>(label);
      shared.course[place] = device::load(stamps + plane + at);
      shared.strength[place] = problem.strength == nullptr ? 1.0f : problem.strength[t];
    }
    __syncthreads();
    for (int k = 0; k < found; ++k) {
      if (!shared.window[k].holds(row, column)) continue;
      const float value = shared.strength[k] * profile_at(problem.profile, row, column, k, shared);
#pragma unroll
      for (int c = 0; c < kClasses; ++c) {  // by value: a register has no index
        const float mine = shared.label[k] == c ? value : 0.0f;
        heat[c] = problem.combine == Combine::max ? fmaxf(heat[c], mine) : heat[c] + mine;
      }
    }
    __syncthreads();
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    heatmap_kernel(const __grid_constant__ HeatmapProblem problem,
                   const __grid_constant__ TilePlan plan, const Bits* stamps) {
  SSSD_SHARED(DrawShared, shared);
  const Tile tile(plan, problem.levels);
  const BoxLevel& map = problem.levels.level[tile.level];
  const int64_t blocks = class_blocks(problem.classes);
  const int64_t image = tile.depth / blocks, first = tile.depth % blocks * kClasses;
  float heat[kClasses] = {};
  draw(problem, stamps, tile, image, first, shared, heat);
  const int32_t row = tile.top + threadIdx.x / kTileColumns;
  const int32_t column = tile.left + threadIdx.x % kTileColumns;
  if (row >= map.size.height || column >= map.size.width) return;
  const int64_t cell = int64_t{row} * map.size.width + column;
#pragma unroll
  for (int c = 0; c < kClasses; ++c)
    if (first + c < problem.classes)
      write<T>(map.map, (image * problem.classes + first + c) * map.cells() + cell, heat[c]);
}

}  // namespace sssd::boxes_cuda
