// Label heatmaps on CUDA: a block writes a tile of cells of one image and class, a thread each
// cell.
#pragma once

#include "kernels/boxes/cuda_prepare.cuh"

namespace sssd::boxes_cuda {

// Objects of one image and class that meet a tile, as many as a block has threads at a time.
struct DrawShared {
  uint32_t votes[kWarps];
  CellSpan window[kThreads];
  Bits centre[kThreads], scale[kThreads];
  float strength[kThreads];
};

// n / size - centre of a pyramid, the scale and the centre given as two floats each: the two
// numbers may be large and the difference, at most 1/2, is still right to the last bits.
__device__ __forceinline__ float from_centre(float n, const uint32_t* scale,
                                             const uint32_t* centre) {
  const float rest =
      fmaf(n, device::float_from_bits(scale[1]), -device::float_from_bits(centre[1]));
  return fmaf(n, device::float_from_bits(scale[0]), -device::float_from_bits(centre[0])) + rest;
}

__device__ __forceinline__ float profile_at(Profile profile, float row, float column, int k,
                                            const DrawShared& shared) {
  if (profile == Profile::box) return 1.0f;
  const Bits &centre = shared.centre[k], &scale = shared.scale[k];
  if (profile == Profile::pyramid)
    return 1.0f - fmaxf(fabsf(from_centre(row, scale.word, centre.word)),
                        fabsf(from_centre(column, scale.word + 2, centre.word + 2)));
  const float down = row - device::float_from_bits(centre.word[0]);  // of whole numbers
  const float right = column - device::float_from_bits(centre.word[2]);
  return expf(-(down * down + right * right) * device::float_from_bits(scale.word[0]));
}

// The heat of this thread's cell from the objects of one image and class, and whether any of them
// meets the tile. All threads call it.
__device__ __forceinline__ float heat_at(const HeatmapProblem& problem, const Bits* stamps,
                                         const Tile& tile, int32_t image, int32_t label,
                                         DrawShared& shared, bool& any) {
  const int32_t row = tile.top + static_cast<int32_t>(threadIdx.x / kTileColumns);
  const int32_t column = tile.left + static_cast<int32_t>(threadIdx.x % kTileColumns);
  const int64_t plane = problem.levels.count * problem.objects.count;
  float heat = 0;
  any = false;
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
      shared.centre[place] = device::load(stamps + plane + at);
      shared.scale[place] = device::load(stamps + 2 * plane + at);
      shared.strength[place] = problem.strength == nullptr ? 1.0f : problem.strength[t];
    }
    __syncthreads();
    any = any || found > 0;
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
  __shared__ DrawShared shared;
  const Tile tile(plan, problem.levels);
  const BoxLevel& map = problem.levels.level[tile.level];
  bool any;
  const float heat = heat_at(problem, stamps, tile, tile.depth / problem.classes,
                             tile.depth % problem.classes, shared, any);
  const int32_t row = tile.top + threadIdx.x / kTileColumns;
  const int32_t column = tile.left + threadIdx.x % kTileColumns;
  if (row < map.size.height && column < map.size.width)
    write<T>(map.map, tile.depth * map.cells() + int64_t{row} * map.size.width + column, heat);
}

}  // namespace sssd::boxes_cuda
