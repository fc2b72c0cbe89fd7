// How a thread loads, keeps and stores the elements it holds of one map.
#pragma once

#include "kernels/divergence/cuda_tile.cuh"

namespace sssd::divergence {

using device::Bits;
using device::HalfBits;

// A chunk of one map as it lies in memory: word i holds element i (fp32), or elements 2i and 2i
// + 1.
struct Fragment {
  uint32_t word[kElements];

  // Issues the loads; `settle` follows. What does not exist is 0.
  template <bool kStrided>
  __device__ __forceinline__ void load(const Tile<kStrided>& tile, const void* map, Dtype dtype,
                                       int first) {
#pragma unroll
    for (int i = 0; i < kElements; ++i) word[i] = 0;
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
        word[i / 2] |= bits << i % 2 * 16;
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

}  // namespace sssd::divergence
