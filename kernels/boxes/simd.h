// Sixteen numbers at a time, in as many registers as they need: one source for every processor.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/common/lanes_io.h"

namespace sssd::boxes_cpu::SSSD_ISA {
namespace {

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

template <class T>
constexpr Dtype dtype_of = std::is_same_v<T, double>     ? Dtype::f64
                           : std::is_same_v<T, BFloat16> ? Dtype::bf16
                           : std::is_same_v<T, Half>     ? Dtype::f16
                                                         : Dtype::f32;
// What a dtype is summed in.
template <class T>
using accumulator_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

constexpr int kLanes = 16;
constexpr int64_t padded(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

template <class A>
struct Sixteen {
  using Part = sssd::SSSD_ISA::Lanes<A>;
  static constexpr int kParts = kLanes / Part::kCount;
  Part part[kParts];

  SSSD_INLINE Sixteen() {  // zero
    for (Part& p : part) p = Part(A(0));
  }
  SSSD_INLINE Sixteen& operator+=(const Sixteen& x) {
    for (int p = 0; p < kParts; ++p) part[p] = part[p] + x.part[p];
    return *this;
  }
  SSSD_INLINE Sixteen& operator/=(A x) {
    for (Part& p : part) p = fast_div(p, Part(x));
    return *this;
  }
  SSSD_INLINE Sixteen operator+(Sixteen x) const { return x += *this; }
  SSSD_INLINE Sixteen operator/(A x) const { return Sixteen(*this) /= x; }
};

template <class T>
SSSD_INLINE void load(const T* from, Sixteen<accumulator_t<T>>& out) {
  using A = accumulator_t<T>;
  for (auto& part : out.part) {
    part = sssd::SSSD_ISA::load<A>(reinterpret_cast<const char*>(from), dtype_of<T>);
    from += sssd::SSSD_ISA::Lanes<A>::kCount;
  }
}
template <class T>
SSSD_INLINE void store(T* to, const Sixteen<accumulator_t<T>>& value) {
  for (const auto& part : value.part) {
    sssd::SSSD_ISA::store(reinterpret_cast<char*>(to), dtype_of<T>, part);
    to += part.kCount;
  }
}

// The first `count` of sixteen; the others are zero and never touched in memory.
template <class T>
SSSD_INLINE void load_some(const T* from, int64_t count, Sixteen<accumulator_t<T>>& out) {
  T padded[kLanes] = {};
  for (int64_t k = 0; k < count; ++k) padded[k] = from[k];
  load(padded, out);
}
template <class T>
SSSD_INLINE void store_some(T* to, int64_t count, const Sixteen<accumulator_t<T>>& value) {
  T padded[kLanes];
  store(padded, value);
  for (int64_t k = 0; k < count; ++k) to[k] = padded[k];
}

// out[j] = table[index[j]], index[j] < 16.
template <class A>
SSSD_INLINE void look_up(const A* table, const uint8_t* index, Sixteen<A>& out) {
#ifdef __AVX512F__
  if constexpr (std::is_same_v<A, float>) {
    const __m512i lane = _mm512_maskz_cvtepu8_epi32(0xffff, _mm_loadu_si128((const __m128i*)index));
    out.part[0].raw = (typename Sixteen<A>::Part::Raw)_mm512_maskz_permutexvar_ps(
        0xffff, lane, _mm512_loadu_ps(table));
    return;
  }
#endif
  A value[kLanes];
  for (int k = 0; k < kLanes; ++k) value[k] = table[index[k]];
  load(value, out);
}

// out[j][i] = in[i][j], sixteen by sixteen, of rows so many numbers apart; four by four in
// registers that every processor has.
SSSD_INLINE void transpose(const float* in, int64_t in_row, float* out, int64_t out_row) {
  typedef float Four __attribute__((vector_size(16)));
  for (int i = 0; i < kLanes; i += 4) {
    for (int j = 0; j < kLanes; j += 4) {
      Four row[4];
      for (int k = 0; k < 4; ++k) std::memcpy(&row[k], in + (i + k) * in_row + j, sizeof(Four));
      const Four a = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5);
      const Four b = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5);
      const Four c = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7);
      const Four d = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
      const Four column[4] = {
          __builtin_shufflevector(a, b, 0, 1, 4, 5), __builtin_shufflevector(a, b, 2, 3, 6, 7),
          __builtin_shufflevector(c, d, 0, 1, 4, 5), __builtin_shufflevector(c, d, 2, 3, 6, 7)};
      for (int k = 0; k < 4; ++k)
        std::memcpy(out + (j + k) * out_row + i, &column[k], sizeof(Four));
    }
  }
}
SSSD_INLINE void transpose(const double* in, int64_t in_row, double* out, int64_t out_row) {
  for (int i = 0; i < kLanes; ++i)
    for (int j = 0; j < kLanes; ++j) out[j * out_row + i] = in[i * in_row + j];
}

template <class T>
SSSD_INLINE T from_accumulator(accumulator_t<T> value) {
  T narrow[kLanes];
  Sixteen<accumulator_t<T>> wide;
  wide.part[0].raw[0] = value;
  store(narrow, wide);
  return narrow[0];
}

}  // namespace
}  // namespace sssd::boxes_cpu::SSSD_ISA
