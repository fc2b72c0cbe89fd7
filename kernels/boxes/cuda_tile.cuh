// What the box kernels on CUDA share: the cells a block works on, and the objects it finds for
// them.
#pragma once

#include "kernels/boxes/boxes.h"
#include "kernels/common/device.cuh"

namespace sssd::boxes_cuda {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / device::kWarp;
constexpr int kBlocks = 2;  // on an SM at least: without a word ptxas saves registers and spills
constexpr int kTileRows = 8, kTileColumns = 32;  // of cells: one a thread, a row a warp
constexpr int kChannels = 32;                    // that one block takes

// Blocks of all levels in one launch: level l has those from first[l] on, `depth` for each tile.
struct TilePlan {
  int64_t first[kMaxLevels + 1];
  int64_t depth;  // blocks a tile: images, classes and blocks of channels as a kernel needs them

  TilePlan(const BoxLevels& levels, int64_t depth) : depth(depth) {
    first[0] = 0;
    for (int l = 0; l < levels.count; ++l) {
      const Size size = levels.level[l].size;
      const int64_t down = size.width > 0 ? (size.height + kTileRows - 1) / kTileRows : 0;
      first[l + 1] = first[l] + down * across(size) * depth;
    }
  }
  int64_t blocks(const BoxLevels& levels) const { return first[levels.count]; }
  static SSSD_HOST_DEVICE int64_t across(Size size) {
    return (size.width + kTileColumns - 1) / kTileColumns;
  }
};

struct Tile {
  int level;
  int32_t top, left;
  int64_t depth;  // which of the blocks of this tile

  __device__ __forceinline__ Tile(const TilePlan& plan, const BoxLevels& levels) : level(0) {
    const int64_t block = blockIdx.x;
    while (level + 1 < levels.count && block >= plan.first[level + 1]) ++level;
    const int64_t here = block - plan.first[level], tile = here / plan.depth;
    const int64_t right = TilePlan::across(levels.level[level].size);
    depth = here % plan.depth;
    top = static_cast<int32_t>(tile / right) * kTileRows;
    left = static_cast<int32_t>(tile % right) * kTileColumns;
  }
  __device__ __forceinline__ bool meets(const CellSpan& span) const {
    return span.left < left + kTileColumns && span.right > left && span.top < top + kTileRows &&
           span.bottom > top;
  }
};

__device__ __forceinline__ uint32_t ballot(bool vote) {
#ifdef SSSD_HOST_CUDA
  uint32_t votes = vote ? 1u << (threadIdx.x % device::kWarp) : 0;
  for (int mask = 1; mask < device::kWarp; mask *= 2)
    votes |= __shfl_xor_sync(0xffffffffu, votes, mask);
  return votes;
#else
  return __ballot_sync(0xffffffffu, vote);
#endif
}
__device__ __forceinline__ int count_bits(uint32_t bits) {
#ifdef SSSD_HOST_CUDA
  return __builtin_popcount(bits);
#else
  return __popc(bits);
#endif
}

// For each thread that keeps something, its place among those that do, in the order of the threads;
// and how many do. `votes` is kWarps words of shared memory. All threads call it, then meet at a
// barrier before they call it again.
__device__ __forceinline__ int place_in_order(bool keep, uint32_t* votes, int& total) {
  const int warp = threadIdx.x / device::kWarp, lane = threadIdx.x % device::kWarp;
  const uint32_t mine = ballot(keep);
  if (lane == 0) votes[warp] = mine;
  __syncthreads();
  int place = count_bits(mine & ((1u << lane) - 1));
  total = 0;
  for (int w = 0; w < kWarps; ++w) {
    const int here = count_bits(votes[w]);
    if (w < warp) place += here;
    total += here;
  }
  return place;
}

// ---- elements -----------------------------------------------------------------------------------

struct Float32 {
  using Stored = float;
  static __device__ __forceinline__ float widen(float bits) { return bits; }
  static __device__ __forceinline__ float narrow(float value) { return value; }
};
struct BFloat16 {
  using Stored = uint16_t;
  static __device__ __forceinline__ float widen(uint16_t bits) {
    return device::bfloat_to_float(bits, 0);
  }
  static __device__ __forceinline__ uint16_t narrow(float value) {
    return static_cast<uint16_t>(device::pack_bfloat(value, 0.0f));
  }
};
struct Float16 {
  using Stored = uint16_t;
  static __device__ __forceinline__ float widen(uint16_t bits) {
    return device::half_to_float(bits, 0);
  }
  static __device__ __forceinline__ uint16_t narrow(float value) {
    return static_cast<uint16_t>(device::pack_half(value, 0.0f));
  }
};

template <class T>
__device__ __forceinline__ float read(const void* data, int64_t at) {
  return T::widen(device::load(static_cast<const typename T::Stored*>(data) + at));
}
template <class T>
__device__ __forceinline__ void write(void* data, int64_t at, float value) {
  device::store(static_cast<typename T::Stored*>(data) + at, T::narrow(value));
}

// Four words, or two, side by side in one access. (On the device by an intrinsic: nvcc takes a
// plain vector store apart here. What is painted is not read again soon: it goes first when the
// cache fills.)
__device__ __forceinline__ void store_words(void* to, device::Bits bits) {
#ifdef SSSD_HOST_CUDA
  device::store(static_cast<device::Bits*>(to), bits);
#else
  __stcs(static_cast<uint4*>(to),
         make_uint4(bits.word[0], bits.word[1], bits.word[2], bits.word[3]));
#endif
}
__device__ __forceinline__ void store_words(void* to, device::HalfBits bits) {
#ifdef SSSD_HOST_CUDA
  device::store(static_cast<device::HalfBits*>(to), bits);
#else
  __stcs(static_cast<uint2*>(to), make_uint2(bits.word[0], bits.word[1]));
#endif
}

// Four values side by side; the place is a multiple of four.
template <class T>
__device__ __forceinline__ void write_four(void* data, int64_t at, const float* value) {
  void* to = static_cast<typename T::Stored*>(data) + at;
  if constexpr (sizeof(typename T::Stored) == 4) {
    store_words(to,
                device::Bits{{device::bits_of_float(value[0]), device::bits_of_float(value[1]),
                              device::bits_of_float(value[2]), device::bits_of_float(value[3])}});
  } else {
    const uint32_t low = T::narrow(value[0]) | static_cast<uint32_t>(T::narrow(value[1])) << 16;
    const uint32_t high = T::narrow(value[2]) | static_cast<uint32_t>(T::narrow(value[3])) << 16;
    store_words(to, device::HalfBits{{low, high}});
  }
}

}  // namespace sssd::boxes_cuda
