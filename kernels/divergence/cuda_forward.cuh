// The forward kernels: statistics of pieces (only where rows are read twice), and the divergence of
// rows.
#pragma once

#include "kernels/divergence/cuda_fragment.cuh"
#include "kernels/divergence/cuda_statistics.cuh"

namespace sssd::divergence {

// The elements of both maps that a thread works on at a time.
template <bool kStrided>
struct Chunk {
  using TileT = Tile<kStrided>;
  float a[kElements], b[kElements];
  uint32_t exists;  // a bit an element

  // From memory; and kept in `slot`, unless that is null, for the second sweep.
  __device__ __forceinline__ void load(const Launch& launch, const TileT& tile, int first,
                                       Bits* slot) {
    Fragment student, teacher;
    student.load(tile, tile.level.student, launch.levels.student_dtype, first);
    teacher.load(tile, tile.level.teacher, launch.levels.teacher_dtype, first);
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
      if (tile.chunk_exists(first, i)) exists |= 1u << i;
  }
};

// Element from + j, for a `from` that only the running thread knows: registers have no addresses.
__device__ __forceinline__ float pick(const float (&x)[kElements], int from, int j) {
  float picked = x[j];
#pragma unroll
  for (int i = kHalf; i < kElements; i += kHalf) picked = from == i ? x[i + j] : picked;
  return picked;
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
  Chunk<kStrided> chunk;
  const int steps = tile.steps();
#pragma unroll 1
  for (int first = 0; first < steps; first += tile.vectors()) {
    chunk.load(launch, tile, first, nullptr);
    statistics.accumulate(tile, chunk.a, chunk.b, chunk.exists, first == 0);
  }
  write_pieces(launch, tile, statistics, scratch);
}

// A row that is left out may hold NaN.
__device__ __forceinline__ float weighted(float weight, float x) {
  return weight == 0.0f ? 0.0f : weight * x;
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
  Chunk<kStrided> chunk;
  RowStatistics<typename Member::template Stats<float>, kStrided> statistics;
  if (stays)
#pragma unroll 1
    for (int c = 0; c < chunks; ++c) {
      chunk.load(launch, tile, start + c * vectors, slot(c));
      statistics.accumulate(tile, chunk.a, chunk.b, chunk.exists, c == 0);
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
#pragma unroll 1
    for (int from = 0; from < kElements; from += kHalf) {
#pragma unroll
      for (int j = 0; j < kHalf; ++j) {
        Sums term;
        Member::term(constants, row[j % kRows], pick(chunk.a, from, j), pick(chunk.b, from, j),
                     term);
        if (chunk.exists >> (from + j) & 1) sums[j % kRows].add(term);
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

}  // namespace sssd::divergence
