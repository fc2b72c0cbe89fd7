// Where the threads of a block stand: which elements of which rows a thread holds, how it loads,
// keeps and stores them, and how the threads of a row add up.
#pragma once

#include "kernels/common/device.cuh"
#include "kernels/divergence/cuda_plan.h"

namespace sssd::divergence {

using device::Bits;
using device::HalfBits;

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

// Calls write(tile row, j) in the one thread that answers for each row.
template <bool kStrided, class Write>
__device__ __forceinline__ void for_own_rows(const Tile<kStrided>& tile, Write write) {
  if (tile.slice != 0) return;
#pragma unroll
  for (int j = 0; j < Tile<kStrided>::kRows; ++j)
    if (tile.tile_row(j) < tile.rows_left) write(tile.tile_row(j), j);
}

// Writes `planes` staged values of every row of the tile, neighbouring rows by neighbouring
// threads.
template <bool kStrided>
__device__ __forceinline__ void write_planes(const Tile<kStrided>& tile, const float* stage,
                                             int planes, float* to, int64_t plane_length) {
  for (int r = threadIdx.x; r < tile.rows_left; r += blockDim.x)
    for (int p = 0; p < planes; ++p)
      device::store(to + p * plane_length + tile.slot0 + r, stage[p * tile.rows + r]);
}

// A row that is left out may hold NaN.
__device__ __forceinline__ float weighted(float weight, float x) {
  return weight == 0.0f ? 0.0f : weight * x;
}

// ---- the elements of a thread -------------------------------------------------------------------

// A chunk of one map as it lies in memory: word i holds element i (fp32), or elements 2i and 2i
// + 1.
struct Fragment {
  uint32_t word[kElements];

  // Issues the loads; `settle` follows. What does not exist is 0, or the least of its dtype.
  template <bool kLeast, bool kStrided>
  __device__ __forceinline__ void load(const Tile<kStrided>& tile, const void* map, Dtype dtype,
                                       int first) {
    const uint32_t least = dtype == Dtype::f32    ? 0xff800000u  // -inf
                           : dtype == Dtype::bf16 ? 0xff80ff80u
                                                  : 0xfc00fc00u;
#pragma unroll
    for (int i = 0; i < kElements; ++i) word[i] = kLeast ? least : 0;
    if (!tile.plan.vectors)
      load_elements(tile, map, dtype, first);
    else if (dtype == Dtype::f32)
      load_vectors<4, Bits>(tile, static_cast<const uint32_t*>(map), first);
    else if (kStrided && tile.plan.pairs)
      load_pairs(tile, static_cast<const uint16_t*>(map), first);
    else if (kStrided || tile.width == 4)
      load_vectors<4, HalfBits>(tile, static_cast<const uint16_t*>(map), first);
    else
      load_vectors<8, Bits>(tile, static_cast<const uint16_t*>(map), first);
  }
  template <bool kStrided>
  __device__ __forceinline__ void settle(const Tile<kStrided>& tile, Dtype dtype) {
    if (kStrided && tile.plan.pairs && dtype != Dtype::f32) trade(tile.lane & 1);
  }
  // In shared memory, threads side by side: no bank conflicts, and nobody else's business.
  __device__ __forceinline__ void keep(Bits* slot, int vectors) const {
#pragma unroll
    for (int k = 0; k < kElements / 4; ++k)
      if (k < vectors)
        device::store_shared(slot + k * blockDim.x + threadIdx.x,
                             {{word[4 * k], word[4 * k + 1], word[4 * k + 2], word[4 * k + 3]}});
  }
  __device__ __forceinline__ void recall(const Bits* slot, int vectors) {
#pragma unroll
    for (int k = 0; k < kElements / 4; ++k) {
      const Bits bits =
          k < vectors ? device::load_shared(slot + k * blockDim.x + threadIdx.x) : Bits{};
#pragma unroll
      for (int w = 0; w < 4; ++w) word[4 * k + w] = bits.word[w];
    }
  }

  __device__ __forceinline__ void widen(Dtype dtype, float (&x)[kElements]) const {
    if (dtype == Dtype::f32) {
#pragma unroll
      for (int i = 0; i < kElements; ++i) x[i] = device::float_from_bits(word[i]);
    } else if (dtype == Dtype::bf16) {
#pragma unroll
      for (int i = 0; i < kElements; ++i) x[i] = device::bfloat_to_float(word[i / 2], i % 2);
    } else {
#pragma unroll
      for (int i = 0; i < kElements; ++i) x[i] = device::half_to_float(word[i / 2], i % 2);
    }
  }
  __device__ __forceinline__ void narrow(Dtype dtype, const float (&x)[kElements]) {
    if (dtype == Dtype::f32) {
#pragma unroll
      for (int i = 0; i < kElements; ++i) word[i] = device::bits_of_float(x[i]);
    } else if (dtype == Dtype::bf16) {
#pragma unroll
      for (int i = 0; i < kElements; i += 2) word[i / 2] = device::pack_bfloat(x[i], x[i + 1]);
    } else {
#pragma unroll
      for (int i = 0; i < kElements; i += 2) word[i / 2] = device::pack_half(x[i], x[i + 1]);
    }
  }

  template <bool kStrided>
  __device__ __forceinline__ void store(const Tile<kStrided>& tile, void* map, Dtype dtype,
                                        int first) {
    if (!tile.plan.vectors)
      store_elements(tile, map, dtype, first);
    else if (dtype == Dtype::f32)
      store_vectors<4, Bits>(tile, static_cast<uint32_t*>(map), first);
    else if (kStrided && tile.plan.pairs)
      store_pairs(tile, static_cast<uint16_t*>(map), first);
    else if (kStrided || tile.width == 4)
      store_vectors<4, HalfBits>(tile, static_cast<uint16_t*>(map), first);
    else
      store_vectors<8, Bits>(tile, static_cast<uint16_t*>(map), first);
  }

 private:
  template <int kWidth, class Vector, bool kStrided, class Element>
  __device__ __forceinline__ void load_vectors(const Tile<kStrided>& tile, const Element* map,
                                               int first) {
    constexpr int kWords = sizeof(Vector) / 4;
    map += tile.base + first * tile.pitch();
#pragma unroll
    for (int k = 0; k < kElements / kWidth; ++k, map += tile.pitch()) {
      if (!tile.in_memory(first + k, 0)) continue;
      const Vector bits = device::load(reinterpret_cast<const Vector*>(map));
#pragma unroll
      for (int w = 0; w < kWords; ++w) word[k * kWords + w] = bits.word[w];
    }
  }
  template <int kWidth, class Vector, bool kStrided, class Element>
  __device__ __forceinline__ void store_vectors(const Tile<kStrided>& tile, Element* map,
                                                int first) const {
    constexpr int kWords = sizeof(Vector) / 4;
    map += tile.base + first * tile.pitch();
#pragma unroll
    for (int k = 0; k < kElements / kWidth; ++k, map += tile.pitch()) {
      if (!tile.in_memory(first + k, 0)) continue;
      Vector bits;
#pragma unroll
      for (int w = 0; w < kWords; ++w) bits.word[w] = word[k * kWords + w];
      device::store(reinterpret_cast<Vector*>(map), bits);
    }
  }
  // Strided half precision: 128 bits are eight rows, four of this thread and four of its neighbour.
  // The even one accesses their vector `first`, the odd one `first + 1`, and they trade halves.
  template <bool kStrided>
  __device__ __forceinline__ void load_pairs(const Tile<kStrided>& tile, const uint16_t* map,
                                             int first) {
    const int odd = tile.lane & 1;
    if (tile.in_memory(first + odd, 0)) {
      map += tile.base + first * tile.pitch() + odd * (tile.pitch() - 4);
      const Bits bits = device::load(reinterpret_cast<const Bits*>(map));
#pragma unroll
      for (int w = 0; w < 4; ++w) word[w] = bits.word[w];
    }
  }
  template <bool kStrided>
  __device__ __forceinline__ void store_pairs(const Tile<kStrided>& tile, uint16_t* map,
                                              int first) {
    const int odd = tile.lane & 1;
    trade(odd);
    if (!tile.in_memory(first + odd, 0)) return;
    map += tile.base + first * tile.pitch() + odd * (tile.pitch() - 4);
    device::store(reinterpret_cast<Bits*>(map), Bits{{word[0], word[1], word[2], word[3]}});
  }
  // The even thread's second half for the odd one's first; every thread of the warp must call.
  __device__ __forceinline__ void trade(int odd) {
#pragma unroll
    for (int w = 0; w < 2; ++w) {
      const uint32_t got = device::shuffle_xor(odd ? word[w] : word[2 + w], 1);
      word[w] = odd ? got : word[w];
      word[2 + w] = odd ? word[2 + w] : got;
    }
  }

  // Calls use(i, offset) for the elements that exist, one by one: any alignment will do.
  template <bool kStrided, class Use>
  static __device__ __forceinline__ void for_elements(const Tile<kStrided>& tile, int first,
                                                      Use use) {
    int64_t offset = tile.base + first * tile.pitch();
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      if (tile.in_memory(first + i / 4, i % 4)) use(i, offset + i % 4 * tile.element_step);
      if (i % 4 == 3) offset += tile.pitch();
    }
  }
  template <bool kStrided>
  __device__ __forceinline__ void load_elements(const Tile<kStrided>& tile, const void* map,
                                                Dtype dtype, int first) {
    if (dtype == Dtype::f32)
      for_elements(tile, first, [&](int i, int64_t offset) {
        word[i] = device::load(static_cast<const uint32_t*>(map) + offset);
      });
    else
      for_elements(tile, first, [&](int i, int64_t offset) {
        const uint32_t bits = device::load(static_cast<const uint16_t*>(map) + offset);
        word[i / 2] = (word[i / 2] & 0xffff0000u >> i % 2 * 16) | bits << i % 2 * 16;
      });
  }
  template <bool kStrided>
  __device__ __forceinline__ void store_elements(const Tile<kStrided>& tile, void* map, Dtype dtype,
                                                 int first) const {
    if (dtype == Dtype::f32)
      for_elements(tile, first, [&](int i, int64_t offset) {
        device::store(static_cast<uint32_t*>(map) + offset, word[i]);
      });
    else
      for_elements(tile, first, [&](int i, int64_t offset) {
        device::store(static_cast<uint16_t*>(map) + offset,
                      static_cast<uint16_t>(word[i / 2] >> i % 2 * 16));
      });
  }
};

// The elements of both maps that a thread works on at a time. With kLeast what does not exist is
// -inf: of a softmax that has no mass, and no element needs to be asked whether it exists.
template <bool kStrided, bool kLeast>
struct Chunk {
  using TileT = Tile<kStrided>;
  float a[kElements], b[kElements];
  uint32_t exists;  // a bit an element; without kLeast

  // From memory; and kept in `slot`, unless that is null, for the second sweep.
  __device__ __forceinline__ void load(const Launch& launch, const TileT& tile, int first,
                                       Bits* slot) {
    Fragment student, teacher;
    student.template load<kLeast>(tile, tile.level.student, launch.levels.student_dtype, first);
    teacher.template load<kLeast>(tile, tile.level.teacher, launch.levels.teacher_dtype, first);
    student.settle(tile, launch.levels.student_dtype);
    teacher.settle(tile, launch.levels.teacher_dtype);
    if (slot) {
      student.keep(slot, launch.stash_vectors);
      teacher.keep(slot + launch.stash_vectors * blockDim.x, launch.stash_vectors);
    }
    widen(launch, tile, student, teacher, first);
  }
  __device__ __forceinline__ void recall(const Launch& launch, const TileT& tile, int first,
                                         const Bits* slot) {
    Fragment student, teacher;
    student.recall(slot, launch.stash_vectors);
    teacher.recall(slot + launch.stash_vectors * blockDim.x, launch.stash_vectors);
    widen(launch, tile, student, teacher, first);
  }

 private:
  __device__ __forceinline__ void widen(const Launch& launch, const TileT& tile,
                                        const Fragment& student, const Fragment& teacher,
                                        int first) {
    student.widen(launch.levels.student_dtype, a);
    teacher.widen(launch.levels.teacher_dtype, b);
    exists = 0;
#pragma unroll
    for (int i = 0; i < kElements; ++i)
      if (!kLeast && tile.chunk_exists(first, i)) exists |= 1u << i;
  }
};

}  // namespace sssd::divergence
