// The forward kernels: statistics of pieces (only where rows are read twice), the divergence of
// rows, and what the rows of a level come to.
#pragma once

#include <cfloat>
#include <type_traits>

#include "kernels/divergence/cuda_tile.cuh"
#include "kernels/divergence/members.h"

namespace sssd::divergence {

// ---- the statistics of a row --------------------------------------------------------------------
// From the elements of one thread to those of the whole row. Both kinds join the same way: agree on
// an anchor (the largest logit; the mean), then add up around it.

// Adds the elements x[j], x[j + stride], ...: of a softmax all, for what does not exist is -inf; of
// moments those whose bit is set in `exists`. Selects, not branches, so that the exponentials of
// all elements are under way together. The maximum starts from a finite number: nothing has to be
// asked about -inf - -inf.
__device__ __forceinline__ void accumulate(SoftmaxStats<float>& stats, const float (&x)[kElements],
                                           int j, int stride, uint32_t, const Constants<float>& c) {
  float most = larger(stats.max, -FLT_MAX);
#pragma unroll
  for (int i = j; i < kElements; i += stride) most = larger(most, x[i]);
  float sum = stats.sum * fast_exp2((stats.max - most) * c.scale);
#pragma unroll
  for (int i = j; i < kElements; i += stride) sum += fast_exp2((x[i] - most) * c.scale);
  stats.max = most, stats.sum = sum;
}
__device__ __forceinline__ void accumulate(Moments<float>& stats, const float (&x)[kElements],
                                           int j, int stride, uint32_t exists,
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
                                             const float (&y)[kElements], uint32_t exists) {
#pragma unroll
    for (int j = 0; j < kRows; ++j) {
      divergence::accumulate(a[j], x, j, kRows, exists, tile.plan.constants);
      divergence::accumulate(b[j], y, j, kRows, exists, tile.plan.constants);
    }
  }

  // Merges the pieces slice, slice + slices, ... of each row, so that the threads share them out.
  __device__ __forceinline__ void read_pieces(const Launch& launch, const TileT& tile) {
    using J = Joining<Stats>;
#pragma unroll 1
    for (int64_t piece = tile.slice; piece < tile.plan.pieces; piece += tile.slices) {
      const float count = static_cast<float>(piece_elements(tile.level, tile.plan, piece));
#pragma unroll 1
      for (int map = 0; map < 2; ++map) {  // one at a time: both would need more registers
        float x[2][kRows];
#pragma unroll
        for (int p = 0; p < 2; ++p) read_plane(launch, tile, piece, 2 * map + p, x[p]);
#pragma unroll
        for (int j = 0; j < kRows; ++j) {
          if (tile.tile_row(j) >= tile.rows_left) continue;
          Stats both = map ? b[j] : a[j];
          both.merge(J::unpack(x[0][j], x[1][j], count), tile.plan.constants.scale);
          (map ? b[j] : a[j]) = both;
        }
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

// ---- the kernels --------------------------------------------------------------------------------

template <bool kStrided>
constexpr int kForwardThreads = kStrided ? kStridedThreads : kContiguousThreads;

// Joins the statistics of the tile's pieces and writes them, by way of `scratch`.
template <class Stats, bool kStrided>
__device__ __forceinline__ void write_pieces(const Launch& launch, const Tile<kStrided>& tile,
                                             RowStatistics<Stats, kStrided>& statistics,
                                             float* scratch) {
  statistics.join(tile, static_cast<float>(tile.count), scratch, scratch + launch.scratch);
  using J = Joining<Stats>;
  float* const stage = scratch;  // every thread has passed the barrier after its last use
  for_own_rows(tile, [&](int r, int j) {
    stage[r] = J::pack(statistics.a[j]), stage[tile.rows + r] = J::sum(statistics.a[j]);
    stage[2 * tile.rows + r] = J::pack(statistics.b[j]);
    stage[3 * tile.rows + r] = J::sum(statistics.b[j]);
  });
  __syncthreads();
  write_planes(tile, stage, 4, launch.piece_stats + tile.plan.slot0, launch.slots);
}

template <class Stats, bool kStrided>
__global__ void __launch_bounds__(kForwardThreads<kStrided>, 1)
    statistics_kernel(const __grid_constant__ Launch launch) {
  SSSD_DYNAMIC_SHARED(scratch);
  const Tile<kStrided> tile(launch, launch.levels.find(blockIdx.x));
  RowStatistics<Stats, kStrided> statistics;
  Chunk<kStrided, std::is_same_v<Stats, SoftmaxStats<float>>> chunk;
  const int steps = tile.steps();
#pragma unroll 1
  for (int first = 0; first < steps; first += tile.vectors()) {
    chunk.load(launch, tile, first, nullptr);
    statistics.accumulate(tile, chunk.a, chunk.b, chunk.exists);
  }
  write_pieces(launch, tile, statistics, scratch);
}

// Adds x over a warp; every lane gets the result.
__device__ __forceinline__ float warp_sum(float x) {
  for (int mask = 1; mask < device::kWarp; mask <<= 1) x += device::shuffle_xor(x, mask);
  return x;
}

template <class Member, bool kStrided, bool kClustered>
__device__ __forceinline__ void forward_tile(const Launch& launch) {
  SSSD_DYNAMIC_SHARED(scratch);
  using TileT = Tile<kStrided>;
  constexpr int kRows = TileT::kRows;
  float* const more = scratch + launch.scratch;
  Bits* const stash = reinterpret_cast<Bits*>(more + launch.scratch);
  const TileT tile(launch, launch.levels.find(blockIdx.x));
  const Level& level = tile.level;
  const Constants<float>& constants = tile.plan.constants;
  const bool whole = tile.plan.pieces == 1;
  const bool clustered = kClustered && tile.plan.clustered, stays = whole || clustered;

  // The first chunk takes what is left over, so that the last, which stays in registers, is full,
  // and the stash holds the full ones before it.
  const int vectors = tile.vectors(), chunks = max((tile.steps() + vectors - 1) / vectors, 1);
  const int start = tile.steps() - chunks * vectors;
  const auto slot = [&](int c) {
    const int number = chunks - 2 - c;
    const bool kept = stays && number >= 0 && number < launch.stash;
    return kept ? stash + number * 2 * launch.stash_vectors * blockDim.x : nullptr;
  };
  Chunk<kStrided, Member::kSoftmax> chunk;
  RowStatistics<typename Member::template Stats<float>, kStrided> statistics;
  if (stays)
#pragma unroll 1
    for (int c = 0; c < chunks; ++c) {
      chunk.load(launch, tile, start + c * vectors, slot(c));
      statistics.accumulate(tile, chunk.a, chunk.b, chunk.exists);
    }
  if (!whole) {
    if (clustered) {
      write_pieces(launch, tile, statistics, scratch);
      device::cluster_barrier();
      statistics = {};
    }
    statistics.read_pieces(launch, tile);
  }
  statistics.join(tile, static_cast<float>(level.row_length()), scratch, more);

  typename Member::template Row<float> row[kRows];
  using Sums = typename Member::template Sums<float>;
  Sums sums[kRows];
#pragma unroll
  for (int j = 0; j < kRows; ++j)
    row[j] = Member::prepare(constants, statistics.a[j], statistics.b[j]);
#pragma unroll 1
  for (int c = chunks - 1; c >= 0; --c) {
    if (const Bits* kept = slot(c))
      chunk.recall(launch, tile, start + c * vectors, kept);
    else if (!stays || c + 1 < chunks)
      chunk.load(launch, tile, start + c * vectors, nullptr);
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      Sums& of_row = sums[i % kRows];
      if constexpr (Member::kSoftmax) {
        Member::term(constants, row[i % kRows], chunk.a[i], chunk.b[i], of_row);
      } else {
        Sums term;
        Member::term(constants, row[i % kRows], chunk.a[i], chunk.b[i], term);
        if (chunk.exists >> i & 1) of_row.add(term);
      }
    }
  }

  float x[kParts<Sums>][kRows];
#pragma unroll
  for (int j = 0; j < kRows; ++j)
#pragma unroll
    for (int n = 0; n < kParts<Sums>; ++n) x[n][j] = part(sums[j], n);
  reduce(tile, x, scratch, Add());
#pragma unroll
  for (int j = 0; j < kRows; ++j)
#pragma unroll
    for (int n = 0; n < kParts<Sums>; ++n) part(sums[j], n) = x[n][j];

  float* const stage = more;
  if (!whole) {
    for_own_rows(tile, [&](int r, int j) {
#pragma unroll
      for (int n = 0; n < kParts<Sums>; ++n) stage[n * tile.rows + r] = part(sums[j], n);
    });
    __syncthreads();
    return write_planes(tile, stage, kParts<Sums>, launch.piece_sums + tile.plan.slot0,
                        launch.slots);
  }
  for_own_rows(tile, [&](int r, int j) {
    Member::save(constants, row[j], sums[j],
                 [&](int plane, float value) { stage[plane * tile.rows + r] = value; });
    stage[launch.planes * tile.rows + r] = Member::finish(constants, row[j], sums[j]);
  });
  __syncthreads();
  write_planes(tile, stage, launch.planes, launch.saved + level.row0, launch.levels.rows);
  if (threadIdx.x >= device::kWarp) return;
  float total = 0.0f, weights = 0.0f;
  for (int r = threadIdx.x; r < tile.rows_left; r += device::kWarp) {
    const float weight = level.weights ? device::load(level.weights + tile.slot0 + r) : 1.0f;
    const float value = stage[launch.planes * tile.rows + r];
    total += weighted(weight, contribution(launch.settings.root, tile.plan.element_scale, value));
    weights += weight;
  }
  total = warp_sum(total), weights = warp_sum(weights);
  if (threadIdx.x != 0) return;
  device::store(launch.tile_sums + 2 * static_cast<int64_t>(blockIdx.x), total);
  device::store(launch.tile_sums + 2 * static_cast<int64_t>(blockIdx.x) + 1, weights);
}

// Blocks of a clustered launch take all of an SM's shared memory, so its registers are theirs too.
template <class Member, bool kStrided, bool kClustered>
__global__ void __launch_bounds__(kForwardThreads<kStrided>,
                                  kStrided && !kClustered ? kBlocks<Member> : 1)
    forward_kernel(const __grid_constant__ Launch launch) {
  if constexpr (device::kClusters || !kClustered)
    forward_tile<Member, kStrided, kClustered>(launch);
}

// One block a level: adds the tiles, or joins the pieces of the rows, always in the same order.
template <class Member, bool kStrided>
__global__ void __launch_bounds__(kFinishThreads)
    finish_kernel(const __grid_constant__ Launch launch) {
  SSSD_SHARED(float, warp_sums, [2][kFinishThreads / device::kWarp]);
  const Level& level = launch.levels.level[blockIdx.x];
  const LevelPlan& plan = launch.plan[blockIdx.x];
  const int64_t rows = level.rows();
  float total = 0.0f, weights = 0.0f;
  if (plan.pieces == 1) {
    const int64_t tiles = static_cast<int>(blockIdx.x) + 1 < launch.levels.count
                              ? launch.levels.level[blockIdx.x + 1].tile0 - level.tile0
                              : launch.levels.tiles - level.tile0;
    for (int64_t t = threadIdx.x; t < tiles; t += blockDim.x) {
      total += device::load(launch.tile_sums + 2 * (level.tile0 + t));
      weights += device::load(launch.tile_sums + 2 * (level.tile0 + t) + 1);
    }
  } else {
    using Stats = typename Member::template Stats<float>;
    for (int64_t r = threadIdx.x; r < rows; r += blockDim.x) {
      Stats a, b;
      typename Member::template Sums<float> sums, more;
      for (int64_t piece = 0; piece < plan.pieces; ++piece) {
        Stats other_a, other_b;
        RowStatistics<Stats, kStrided>::read_piece(launch, level, plan, r, piece, other_a, other_b);
        a.merge(other_a, plan.constants.scale), b.merge(other_b, plan.constants.scale);
        const float* from = launch.piece_sums + piece_slot<kStrided>(level, plan, r, piece);
        for (int n = 0; n < kParts<decltype(sums)>; ++n)
          part(more, n) = device::load(from + n * launch.slots);
        sums.add(more);
      }
      const auto row = Member::prepare(plan.constants, a, b);
      Member::save(plan.constants, row, sums, [&](int plane, float value) {
        device::store(launch.saved + plane * launch.levels.rows + level.row0 + r, value);
      });
      const float weight = level.weights ? device::load(level.weights + r) : 1.0f;
      const float value = Member::finish(plan.constants, row, sums);
      total += weighted(weight, contribution(launch.settings.root, plan.element_scale, value));
      weights += weight;
    }
  }
  total = warp_sum(total), weights = warp_sum(weights);
  const int warp = threadIdx.x / device::kWarp;
  if (threadIdx.x % device::kWarp == 0) warp_sums[0][warp] = total, warp_sums[1][warp] = weights;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kFinishThreads / device::kWarp; ++w)
    total += warp_sums[0][w], weights += warp_sums[1][w];
  if (!level.weights) weights = static_cast<float>(rows);
  const LevelValue<float> value = level_value(launch.settings, total, weights);
  device::store(launch.values + plan.index, value.value);
  device::store(launch.factors + plan.index, value.factor);
}

}  // namespace sssd::divergence
