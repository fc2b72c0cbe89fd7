// Sixteen numbers at a time, in the vector types of GCC and Clang: one source for every processor.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/common/half_formats.h"

namespace sssd {

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

// What a dtype is summed in.
template <class T>
struct accumulator {
  using type = float;
};
template <>
struct accumulator<double> {
  using type = double;
};
template <class T>
using accumulator_t = typename accumulator<T>::type;

constexpr int kLanes = 16;

template <class A>
struct lanes;
template <>
struct lanes<float> {
  typedef float type __attribute__((vector_size(64)));
  typedef int32_t mask __attribute__((vector_size(64)));
};
template <>
struct lanes<double> {
  typedef double type __attribute__((vector_size(128)));
  typedef int64_t mask __attribute__((vector_size(128)));
};
template <class A>
using lanes_t = typename lanes<A>::type;
template <class A>
using mask_t = typename lanes<A>::mask;

typedef uint16_t Narrow __attribute__((vector_size(32)));
typedef uint32_t Wide __attribute__((vector_size(64)));
using Halves = SSSD_ISA::HalfFormats<Narrow, Wide, lanes_t<float>>;

SSSD_INLINE lanes_t<float> widen(Narrow bits, BFloat16) { return Halves::widen_bf16(bits); }
SSSD_INLINE lanes_t<float> widen(Narrow bits, Half) { return Halves::widen_f16(bits); }
SSSD_INLINE Narrow narrow(lanes_t<float> x, BFloat16) { return Halves::narrow_bf16(x); }
SSSD_INLINE Narrow narrow(lanes_t<float> x, Half) { return Halves::narrow_f16(x); }

template <class T>
SSSD_INLINE void load(const T* from, lanes_t<accumulator_t<T>>& out) {
  if constexpr (sizeof(T) == 2) {
    Narrow bits;
    std::memcpy(&bits, from, sizeof(bits));
    out = widen(bits, T{});
  } else {
    std::memcpy(&out, from, sizeof(out));
  }
}
template <class T>
SSSD_INLINE void store(T* to, const lanes_t<accumulator_t<T>>& value) {
  if constexpr (sizeof(T) == 2) {
    const Narrow bits = narrow(value, T{});
    std::memcpy(to, &bits, sizeof(bits));
  } else {
    std::memcpy(to, &value, sizeof(value));
  }
}

// The first `count` of sixteen; the others are zero and never touched in memory.
template <class T>
SSSD_INLINE void load_some(const T* from, int64_t count, lanes_t<accumulator_t<T>>& out) {
  T padded[kLanes] = {};
  for (int64_t k = 0; k < count; ++k) padded[k] = from[k];
  load(padded, out);
}
template <class T>
SSSD_INLINE void store_some(T* to, int64_t count, const lanes_t<accumulator_t<T>>& value) {
  T padded[kLanes];
  store(padded, value);
  for (int64_t k = 0; k < count; ++k) to[k] = padded[k];
}

// All ones in the first `count` lanes.
template <class A>
SSSD_INLINE mask_t<A> first_lanes(int64_t count) {
  mask_t<A> index;
  for (int k = 0; k < kLanes; ++k) index[k] = k;
  return index < static_cast<std::remove_reference_t<decltype(index[0])>>(count);
}
// Keep the masked lanes, set the others to zero whatever they hold (NaN too).
template <class A>
SSSD_INLINE void keep(lanes_t<A>& value, const mask_t<A>& mask) {
  mask_t<A> bits;
  std::memcpy(&bits, &value, sizeof(bits));
  bits &= mask;
  std::memcpy(&value, &bits, sizeof(bits));
}

// Pairwise, so that the order is one for all processors.
template <class A>
SSSD_INLINE A sum(const lanes_t<A>& value) {
  A part[kLanes];
  std::memcpy(part, &value, sizeof(part));
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int k = 0; k < half; ++k) part[k] += part[k + half];
  return part[0];
}

// out[j][i] = in[i][j], sixteen by sixteen; four by four in registers that every processor has.
SSSD_INLINE void transpose(const float* in, float* out) {
  typedef float Four __attribute__((vector_size(16)));
  for (int i = 0; i < kLanes; i += 4) {
    for (int j = 0; j < kLanes; j += 4) {
      Four row[4];
      for (int k = 0; k < 4; ++k) std::memcpy(&row[k], in + (i + k) * kLanes + j, sizeof(Four));
      const Four a = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5);
      const Four b = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5);
      const Four c = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7);
      const Four d = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
      const Four column[4] = {
          __builtin_shufflevector(a, b, 0, 1, 4, 5), __builtin_shufflevector(a, b, 2, 3, 6, 7),
          __builtin_shufflevector(c, d, 0, 1, 4, 5), __builtin_shufflevector(c, d, 2, 3, 6, 7)};
      for (int k = 0; k < 4; ++k) std::memcpy(out + (j + k) * kLanes + i, &column[k], sizeof(Four));
    }
  }
}
SSSD_INLINE void transpose(const double* in, double* out) {
  for (int i = 0; i < kLanes; ++i)
    for (int j = 0; j < kLanes; ++j) out[j * kLanes + i] = in[i * kLanes + j];
}

template <class T>
SSSD_INLINE accumulator_t<T> to_accumulator(T value) {
  if constexpr (sizeof(T) == 2) {
    return widen(Narrow{value.bits}, T{})[0];
  } else {
    return value;
  }
}
template <class T>
SSSD_INLINE T from_accumulator(accumulator_t<T> value) {
  if constexpr (sizeof(T) == 2) {
    return T{narrow(lanes_t<float>{value}, T{})[0]};
  } else {
    return value;
  }
}

}  // namespace sssd
