// Where the threads of a block stand: which elements of which rows a thread holds, and how the
// threads of a row add up.
#pragma once

#include "kernels/common/device.cuh"
#include "kernels/divergence/cuda_plan.h"

namespace sssd::divergence {

// The tile of a block, and the place of the running thread in it.
//
// A thread works on *chunks* of kElements elements. Element i of a chunk is element i % width of
// its vector i / width. The vectors of the threads of a row alternate, so that a warp reads
// neighbouring memory; where vectors may not be used, so do the elements.
template <bool kStrided>
struct Tile {
  static constexpr int kRows = kStrided ? kStridedWidth : 1;  // that one thread has elements of

  const Level& level;
  const LevelPlan& plan;
  int64_t base;         // offset of the thread's first element
  int64_t slot0, row0;  // of the tile's first row, within the level (row0: strided)
  int count, left;      // elements of the piece, and of those from the thread's first on
  int rows, rows_left;  // of the tile, and those that exist
  int row;              // the thread's first, as numbered in the tile
  int slice, slices;    // which of the threads of a row this is
  int lane;             // strided: which of the threads side by side
  int width, step;      // of a vector, and between the positions of a thread's vectors
  int element_step;     // between the elements of a vector
  int columns_left;     // strided: rows from the thread's first on

  __device__ __forceinline__ Tile(const Launch& launch, int l)
      : level(launch.levels.level[l]), plan(launch.plan[l]) {
    const uint32_t tile = blockIdx.x - static_cast<uint32_t>(level.tile0);
    const int lanes = plan.lanes, thread = threadIdx.x;
    width = plan.vectors && !kStrided ? launch.width : 4;
    element_step = plan.vectors ? 1 : lanes;
    if constexpr (kStrided) {
      slice = thread / lanes, slices = blockDim.x / lanes, lane = thread % lanes;
      rows = lanes * kRows, row = plan.vectors ? lane * kRows : lane, step = slices;
      const uint32_t inner = level.inner, pieces = plan.pieces;
      const uint32_t columns = (inner + rows - 1) / rows;
      // Neighbouring blocks have neighbouring rows; or, in a cluster, the pieces of the same ones.
      const uint32_t near = plan.clustered ? tile / pieces : tile;
      const uint32_t column = near % columns * rows, outer = tile / columns / pieces;
      const uint32_t piece = plan.clustered ? tile % pieces : tile / columns % pieces;
      row0 = outer * level.inner + column;
      slot0 = piece * level.rows() + row0;
      rows_left = outer < level.outer ? min(rows, static_cast<int>(inner - column)) : 0;
      columns_left = static_cast<int>(inner - column) - row;
      const int64_t start = piece * plan.piece_length;
      count = rows_left > 0 ? static_cast<int>(min(plan.piece_length, level.length - start)) : 0;
      left = count - slice;
      base = outer * level.outer_stride + (start + slice) * level.inner + column + row;
    } else {
      slice = thread % lanes, slices = lanes, lane = 0;
      rows = blockDim.x / lanes, row = thread / lanes, step = lanes * width;
      slot0 = row0 = static_cast<int64_t>(tile) * rows;
      const int64_t slots = level.outer * plan.pieces, per_segment = plan.pieces / level.segments;
      rows_left = static_cast<int>(max(min(static_cast<int64_t>(rows), slots - slot0), int64_t{0}));
      columns_left = 1;
      const int64_t slot = min(slot0 + row, slots - 1);
      const int64_t owner = plan.pieces == 1 ? slot : slot / plan.pieces;
      const int64_t piece = slot - owner * plan.pieces;
      const int64_t segment = per_segment == plan.pieces ? 0 : piece / per_segment;
      const int64_t start = (piece - segment * per_segment) * plan.piece_length;
      const int first = plan.vectors ? slice * width : slice;
      count = row < rows_left ? static_cast<int>(min(plan.piece_length, level.length - start)) : 0;
      left = count - first;
      base = owner * level.outer_stride + segment * level.segment_stride + start + first;
    }
  }

  // Row j of the thread, as numbered in the tile; and a row of the tile, as numbered in the level.
  __device__ __forceinline__ int tile_row(int j) const { return row + j * element_step; }
  __device__ __forceinline__ int64_t level_row(int r) const {
    if constexpr (kStrided) return row0 + r;
    return plan.pieces == 1 ? slot0 + r : (slot0 + r) / plan.pieces;
  }

  __device__ __forceinline__ int vectors() const { return kElements / width; }  // of a chunk
  __device__ __forceinline__ int steps() const {  // vectors of a thread: the same for a whole row
    return (count + step - 1) / step;
  }
  // Is there an element j in a vector? (Strided: of the rows that exist.)
  __device__ __forceinline__ bool exists(int vector, int j) const {
    return vector >= 0 && vector * step + (kStrided ? 0 : j * element_step) < left;
  }
  __device__ __forceinline__ bool in_memory(int vector, int j) const {
    return exists(vector, j) && (!kStrided || j * element_step < columns_left);
  }
  // The place of element i of the chunk that starts with vector `first`.
  __device__ __forceinline__ bool chunk_exists(int first, int i) const {
    return width == 4 ? exists(first + i / 4, i % 4) : exists(first + i / 8, i % 8);
  }
  __device__ __forceinline__ int64_t pitch() const {  // between the vectors of a thread
    return kStrided ? step * level.inner : step;
  }
};

struct Add {
  __device__ __forceinline__ float operator()(float x, float y) const { return x + y; }
};
struct Max {
  __device__ __forceinline__ float operator()(float x, float y) const { return larger(x, y); }
};

// Combines x over the threads of a row, always in the same order; every thread gets the result.
// `scratch` holds N * warps * max(1, rows a warp meets) floats. Every thread of the block must
// call.
template <int N, bool kStrided, class Op>
__device__ __forceinline__ void reduce(const Tile<kStrided>& tile,
                                       float (&x)[N][Tile<kStrided>::kRows], float* scratch,
                                       Op op) {
  constexpr int kRows = Tile<kStrided>::kRows;
  const int lanes = tile.plan.lanes;
  const int last = kStrided ? device::kWarp : min(lanes, device::kWarp);
  for (int mask = kStrided ? lanes : 1; mask < last; mask <<= 1)
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int j = 0; j < kRows; ++j) x[n][j] = op(x[n][j], device::shuffle_xor(x[n][j], mask));
  if (!kStrided && lanes <= device::kWarp) return;

  const int width = kStrided ? lanes * kRows : 1;  // a warp's values of one n
  const int warps = blockDim.x / device::kWarp, warp = threadIdx.x / device::kWarp;
  const int lane = threadIdx.x % device::kWarp;
  if (lane < (kStrided ? lanes : 1))
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int j = 0; j < kRows; ++j)
        scratch[(n * warps + warp) * width + tile.lane * kRows + j] = x[n][j];
  __syncthreads();
  const int first = kStrided ? 0 : warp / (lanes / device::kWarp) * (lanes / device::kWarp);
  const int count = kStrided ? warps : lanes / device::kWarp;
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const float* from = scratch + (n * warps + first) * width + tile.lane * kRows;
#pragma unroll
    for (int j = 0; j < kRows; ++j) x[n][j] = from[j];
#pragma unroll 1
    for (int w = 1; w < count; ++w)
#pragma unroll
      for (int j = 0; j < kRows; ++j) x[n][j] = op(x[n][j], from[w * width + j]);
  }
}

}  // namespace sssd::divergence
