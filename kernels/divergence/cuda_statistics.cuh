// The statistics of a row, from the elements of one thread to those of the whole row. Both kinds
// join the same way: agree on an anchor (the largest logit; the mean), then add up around it.
#pragma once

#include "kernels/divergence/cuda_tile.cuh"
#include "kernels/divergence/members.h"

namespace sssd::divergence {

// Adds the elements x[j], x[j + stride], ... whose bit is set in `exists`. Selects, not branches,
// so that the exponentials of all elements are under way together.
__device__ __forceinline__ void accumulate(SoftmaxStats<float>& stats, const float (&x)[kElements],
                                           int j, int stride, uint32_t exists, bool first,
                                           const Constants<float>& c) {
  float most = -infinity<float>();
  float logits[kElements];
#pragma unroll
  for (int i = 0; i < kElements; ++i) {
    logits[i] = exists >> i & 1 ? x[i] : -infinity<float>();
    if (i % stride == j) most = larger(most, logits[i]);
  }
  if (first)
    stats.max = most;
  else
    stats.raise(larger(stats.max, most), c.scale);
#pragma unroll
  for (int i = 0; i < kElements; ++i)
    if (i % stride == j) stats.add(logits[i], c.scale);
}
__device__ __forceinline__ void accumulate(Moments<float>& stats, const float (&x)[kElements],
                                           int j, int stride, uint32_t exists, bool,
                                           const Constants<float>& c) {
  Moments<float> part;
#pragma unroll
  for (int i = 0; i < kElements; ++i)
    if (i % stride == j) {
      part.count += exists >> i & 1 ? 1.0f : 0.0f;
      part.mean += exists >> i & 1 ? x[i] : 0.0f;
    }
  part.mean = c.centre && part.count > 0 ? fast_div(part.mean, part.count) : 0.0f;
#pragma unroll
  for (int i = 0; i < kElements; ++i)
    if (i % stride == j) {
      const float gap = exists >> i & 1 ? x[i] - part.mean : 0.0f;
      part.squares += gap * gap;
    }
  stats.merge(part, c.scale);
}

// The sums of a row as numbers, so that they are reduced and stored alike for every member.
template <class Sums>
constexpr int kParts = sizeof(Sums) / sizeof(float);
__device__ __forceinline__ float& part(RowSums<float>& sums, int n) {
  return n == 0 ? sums.a : n == 1 ? sums.b : sums.third;
}
__device__ __forceinline__ float& part(SoftmaxMse::Sums<float>& sums, int n) {
  return n == 3 ? sums.value : part(static_cast<RowSums<float>&>(sums), n);
}

template <class Stats>
struct Joining;  // how the statistics of the threads of a row become those of the row

template <>
struct Joining<SoftmaxStats<float>> {
  using Anchor = Max;
  using Stats = SoftmaxStats<float>;
  static __device__ __forceinline__ float anchor(const Stats& stats) { return stats.max; }
  static __device__ __forceinline__ void move(Stats& stats, float anchor, float,
                                              const Constants<float>& c) {
    stats.raise(anchor, c.scale);
  }
  static __device__ __forceinline__ float& sum(Stats& stats) { return stats.sum; }
  static __device__ __forceinline__ Stats unpack(float anchor, float sum, float) {
    Stats stats;
    stats.max = anchor, stats.sum = sum;
    return stats;
  }
  static __device__ __forceinline__ float pack(const Stats& stats) { return stats.max; }
};

template <>
struct Joining<Moments<float>> {
  using Anchor = Add;
  using Stats = Moments<float>;
  static __device__ __forceinline__ float anchor(const Stats& stats) {
    return stats.count * stats.mean;
  }
  static __device__ __forceinline__ void move(Stats& stats, float total, float count,
                                              const Constants<float>&) {
    const float mean = count > 0 ? total / count : 0.0f;
    const float gap = stats.mean - mean;
    stats.squares += stats.count * gap * gap;
    stats.mean = mean, stats.count = count;
  }
  static __device__ __forceinline__ float& sum(Stats& stats) { return stats.squares; }
  static __device__ __forceinline__ Stats unpack(float mean, float squares, float count) {
    Stats stats;
    stats.mean = mean, stats.squares = squares, stats.count = count;
    return stats;
  }
  static __device__ __forceinline__ float pack(const Stats& stats) { return stats.mean; }
};

// The statistics of both maps for the rows of a thread.
template <class Stats, bool kStrided>
struct RowStatistics {
  using TileT = Tile<kStrided>;
  static constexpr int kRows = TileT::kRows;
  Stats a[kRows], b[kRows];

  __device__ __forceinline__ void accumulate(const TileT& tile, const float (&x)[kElements],
                                             const float (&y)[kElements], uint32_t exists,
                                             bool first) {
#pragma unroll
    for (int j = 0; j < kRows; ++j) {
      divergence::accumulate(a[j], x, j, kRows, exists, first, tile.plan.constants);
      divergence::accumulate(b[j], y, j, kRows, exists, first, tile.plan.constants);
    }
  }

  // Merges the pieces slice, slice + slices, ... of each row, so that the threads share them out.
  __device__ __forceinline__ void read_pieces(const Launch& launch, const TileT& tile) {
    using J = Joining<Stats>;
#pragma unroll 1
    for (int64_t piece = tile.slice; piece < tile.plan.pieces; piece += tile.slices) {
      const float count = static_cast<float>(piece_elements(tile.level, tile.plan, piece));
      float x[4][kRows];
#pragma unroll
      for (int p = 0; p < 4; ++p) read_plane(launch, tile, piece, p, x[p]);
#pragma unroll
      for (int j = 0; j < kRows; ++j) {
        if (tile.tile_row(j) >= tile.rows_left) continue;
        a[j].merge(J::unpack(x[0][j], x[1][j], count), tile.plan.constants.scale);
        b[j].merge(J::unpack(x[2][j], x[3][j], count), tile.plan.constants.scale);
      }
    }
  }
  // One of the four numbers of a piece, for the rows of a thread that exist. Of a vector all do, or
  // none: beside the last row there is no whole vector to load.
  static __device__ __forceinline__ void read_plane(const Launch& launch, const TileT& tile,
                                                    int64_t piece, int plane, float (&x)[kRows]) {
    const float* from = launch.piece_stats + plane * launch.slots;
    const auto slot = [&](int j) {
      return piece_slot<kStrided>(tile.level, tile.plan, tile.level_row(tile.tile_row(j)), piece);
    };
    if constexpr (kStrided)
      if (tile.plan.vectors) {
        if (tile.row >= tile.rows_left) return;
        const device::Bits bits =
            device::load_written(reinterpret_cast<const device::Bits*>(from + slot(0)));
#pragma unroll
        for (int j = 0; j < kRows; ++j) x[j] = device::float_from_bits(bits.word[j]);
        return;
      }
#pragma unroll
    for (int j = 0; j < kRows; ++j)
      if (tile.tile_row(j) < tile.rows_left) x[j] = device::load_written(from + slot(j));
  }
  // The same for a single row, after the launch that wrote it.
  static __device__ __forceinline__ void read_piece(const Launch& launch, const Level& level,
                                                    const LevelPlan& plan, int64_t row,
                                                    int64_t piece, Stats& a, Stats& b) {
    const float* stats = launch.piece_stats + piece_slot<kStrided>(level, plan, row, piece);
    const float count = static_cast<float>(piece_elements(level, plan, piece));
    using J = Joining<Stats>;
    a = J::unpack(device::load(stats), device::load(stats + launch.slots), count);
    b = J::unpack(device::load(stats + 2 * launch.slots), device::load(stats + 3 * launch.slots),
                  count);
  }

  // Joins over the threads of a row; `count` is the number of elements they have together.
  __device__ __forceinline__ void join(const TileT& tile, float count, float* scratch,
                                       float* more_scratch) {
    using J = Joining<Stats>;
    float x[2][kRows];
#pragma unroll
    for (int j = 0; j < kRows; ++j) x[0][j] = J::anchor(a[j]), x[1][j] = J::anchor(b[j]);
    reduce(tile, x, scratch, typename J::Anchor());
#pragma unroll
    for (int j = 0; j < kRows; ++j) {
      J::move(a[j], x[0][j], count, tile.plan.constants);
      J::move(b[j], x[1][j], count, tile.plan.constants);
      x[0][j] = J::sum(a[j]), x[1][j] = J::sum(b[j]);
    }
    reduce(tile, x, more_scratch, Add());
#pragma unroll
    for (int j = 0; j < kRows; ++j) J::sum(a[j]) = x[0][j], J::sum(b[j]) = x[1][j];
  }
};

}  // namespace sssd::divergence
