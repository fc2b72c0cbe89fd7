// As many floats or doubles as a register holds, in the vector types of GCC and Clang: one source
// for every processor. A kernel that uses Lanes is compiled once for each instruction set.
#pragma once

#include <cstring>
#include <type_traits>
#include <utility>

#ifdef __AVX__
#include <immintrin.h>
#endif

#include "kernels/common/dtype.h"
#include "kernels/common/inline.h"

namespace sssd::SSSD_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
struct Vector;
template <>
struct Vector<float> {
  typedef float Raw __attribute__((vector_size(kVectorBytes)));
  typedef int32_t Bits __attribute__((vector_size(kVectorBytes)));
};
template <>
struct Vector<double> {
  typedef double Raw __attribute__((vector_size(kVectorBytes)));
  typedef int64_t Bits __attribute__((vector_size(kVectorBytes)));
};

template <class T>
struct Mask {
  using Raw = typename Vector<T>::Bits;
  Raw raw;
  SSSD_INLINE Mask operator|(Mask other) const { return {raw | other.raw}; }
};

template <class T>
struct Lanes {
  using Scalar = T;
  static constexpr int kCount = kVectorBytes / sizeof(T);
  using Raw = typename Vector<T>::Raw;
  using Bits = typename Vector<T>::Bits;
  Raw raw;

  Lanes() = default;
  SSSD_INLINE explicit Lanes(T x) : raw(x - Raw{}) {}
  SSSD_INLINE explicit Lanes(Raw x) : raw(x) {}

  SSSD_INLINE Lanes operator+(Lanes y) const { return Lanes(raw + y.raw); }
  SSSD_INLINE Lanes operator-(Lanes y) const { return Lanes(raw - y.raw); }
  SSSD_INLINE Lanes operator*(Lanes y) const { return Lanes(raw * y.raw); }
  SSSD_INLINE Lanes operator-() const { return Lanes(-raw); }
  SSSD_INLINE Mask<T> operator<(Lanes y) const { return {raw < y.raw}; }
  SSSD_INLINE Mask<T> operator>(Lanes y) const { return {raw > y.raw}; }
  SSSD_INLINE Mask<T> operator<=(Lanes y) const { return {raw <= y.raw}; }
  SSSD_INLINE Mask<T> operator==(Lanes y) const { return {raw == y.raw}; }
  SSSD_INLINE Bits bits() const { return (Bits)raw; }
};

template <class T>
SSSD_INLINE Lanes<T> select(Mask<T> take, Lanes<T> x, Lanes<T> y) {
  return Lanes<T>(take.raw ? x.raw : y.raw);
}
template <class T>
SSSD_INLINE Lanes<T> fast_div(Lanes<T> x, Lanes<T> y) {
  return Lanes<T>(x.raw / y.raw);
}
template <class T>
SSSD_INLINE Lanes<T> fast_abs(Lanes<T> x) {
  using Raw = typename Lanes<T>::Raw;
  using Bits = typename Lanes<T>::Bits;
  return Lanes<T>((Raw)(x.bits() & ~(Bits)(-Raw{})));
}
#ifdef __AVX512F__  // one instruction, where a comparison and a choice would be two
SSSD_INLINE Lanes<float> smaller(Lanes<float> x, Lanes<float> y) {
  return Lanes<float>((Lanes<float>::Raw)_mm512_maskz_min_ps(0xffff, (__m512)x.raw, (__m512)y.raw));
}
#endif
template <class T, class F>
SSSD_INLINE Lanes<T> each_lane(Lanes<T> x, F&& f) {
  for (int i = 0; i < Lanes<T>::kCount; ++i) x.raw[i] = f(x.raw[i]);
  return x;
}
template <class T>
SSSD_INLINE Lanes<T> fast_sqrt(Lanes<T> x) {
  return each_lane(x, [](T value) { return sssd::fast_sqrt(value); });
}

// ---- float: everything in vector registers ------------------------------------------------------

// 1.5 * 2^23: adding it leaves a whole number in the low bits.
constexpr float kRounder = 12582912.0f;

// 2^n for a whole n, 0 for n = -127.
SSSD_INLINE Lanes<float> exp2_whole(Lanes<float> n) {
  const Lanes<float> biased = n + Lanes<float>(kRounder + 127.0f);
  return Lanes<float>((Lanes<float>::Raw)(biased.bits() << 23));
}
SSSD_INLINE Lanes<float> round_whole(Lanes<float> x) {
#ifdef __AVX512F__
  return Lanes<float>((Lanes<float>::Raw)_mm512_maskz_roundscale_ps(0xffff, (__m512)x.raw, 0));
#else
  return (x + Lanes<float>(kRounder)) - Lanes<float>(kRounder);
#endif
}
// 2^x for x <= 127, 0 for x below -127 (relative error 1.5e-7). NaN stays NaN.
#ifdef __AVX512F__
SSSD_INLINE Lanes<float> fraction(Lanes<float> x) {  // x - floor(x); 0 for an infinity
  return Lanes<float>((Lanes<float>::Raw)_mm512_maskz_reduce_ps(0xffff, (__m512)x.raw, 1));
}
SSSD_INLINE Lanes<float> scale_by_floor(Lanes<float> y, Lanes<float> x) {  // y 2^floor(x)
  return Lanes<float>(
      (Lanes<float>::Raw)_mm512_maskz_scalef_ps(0xffff, (__m512)y.raw, (__m512)x.raw));
}
template <class V, class = std::enable_if_t<std::is_same_v<typename V::Scalar, float>>>
SSSD_INLINE V fast_exp2(V x) {
  return scale_by_floor(polynomial(fraction(x), 1.0, 6.931512952e-01, 2.401644439e-01,
                                   5.579991266e-02, 9.017028846e-03, 1.867130515e-03),
                        x);
}
#else
template <class V, class = std::enable_if_t<std::is_same_v<typename V::Scalar, float>>>
SSSD_INLINE V fast_exp2(V x) {
  x = larger(V(-127.0f), x);
  const V whole = round_whole(x);
  return polynomial(x - whole, 1.0, 6.931469671e-01, 2.402211973e-01, 5.550713288e-02,
                    9.675541239e-03, 1.327646713e-03) *
         exp2_whole(whole);
}
#endif
// x y + z, rounded as the compiler may not choose: once, or twice where there is no instruction.
SSSD_INLINE Lanes<float> fused(Lanes<float> x, Lanes<float> y, Lanes<float> z) {
#if defined(__AVX512F__)
  return Lanes<float>(
      (Lanes<float>::Raw)_mm512_fmadd_ps((__m512)x.raw, (__m512)y.raw, (__m512)z.raw));
#elif defined(__FMA__)
  return Lanes<float>(
      (Lanes<float>::Raw)_mm256_fmadd_ps((__m256)x.raw, (__m256)y.raw, (__m256)z.raw));
#else
  return x * y + z;
#endif
}
// log2 of a positive normal number; infinity and NaN give NaN. Equal numbers have equal logarithms:
// two equal maps are at distance 0.
SSSD_INLINE Lanes<float> fast_log2(Lanes<float> x) {
  using Raw = Lanes<float>::Raw;
  const Lanes<float>::Bits exponent = (x.bits() - 0x3f400000) >> 23;  // mantissa in [3/4, 3/2)
  const Lanes<float> f = Lanes<float>((Raw)(x.bits() - (exponent << 23))) - Lanes<float>(1.0f);
  const Lanes<float> whole(__builtin_convertvector(exponent, Raw));
  const Lanes<float> tail = polynomial(f, 1.442695031e+00, -7.213494140e-01, 4.809019562e-01,
                                       -3.605296804e-01, 2.881630238e-01, -2.433646129e-01,
                                       2.171226413e-01, -1.719018599e-01, 7.444739868e-02);
  return fused(f, tail, whole) + (x - x);
}

// ---- double: for gradcheck, lane by lane --------------------------------------------------------

SSSD_INLINE Lanes<double> fast_exp2(Lanes<double> x) {
  return each_lane(x, [](double value) { return sssd::fast_exp2(value); });
}
SSSD_INLINE Lanes<double> fast_log2(Lanes<double> x) {
  return each_lane(x, [](double value) { return sssd::fast_log2(value); });
}
SSSD_INLINE Decay<Lanes<double>> decay(Lanes<double> t) {
  return {each_lane(t, [](double value) { return sssd::decay(value).value; }),
          each_lane(t, [](double value) { return sssd::decay(value).rest; })};
}
SSSD_INLINE Midpoint<Lanes<double>> midpoint(Lanes<double> v) {
  return {each_lane(v, [](double value) { return sssd::midpoint(value).log; }),
          each_lane(v, [](double value) { return sssd::midpoint(value).above; }),
          each_lane(v, [](double value) { return sssd::midpoint(value).gap; })};
}

// ---- across lanes -------------------------------------------------------------------------------

// Lane i gets lane i ^ kHalf.
template <int kHalf, class T, int... I>
SSSD_INLINE Lanes<T> swapped(Lanes<T> x, std::integer_sequence<int, I...>) {
#if defined(__clang__) || __GNUC__ >= 12
  return Lanes<T>(__builtin_shufflevector(x.raw, x.raw, (I ^ kHalf)...));
#else
  return Lanes<T>(__builtin_shuffle(x.raw, typename Lanes<T>::Bits{(I ^ kHalf)...}));
#endif
}
// Joins all lanes by halves, always in the same order.
template <int kHalf, class T, class F>
SSSD_INLINE T join_halves(Lanes<T> x, F&& join) {
  if constexpr (kHalf == 0)
    return x.raw[0];
  else
    return join_halves<kHalf / 2>(
        join(x, swapped<kHalf>(x, std::make_integer_sequence<int, Lanes<T>::kCount>())), join);
}
template <class T>
SSSD_INLINE T sum_lanes(Lanes<T> x) {
  return join_halves<Lanes<T>::kCount / 2>(x, [](auto y, auto z) { return y + z; });
}
template <class T>
SSSD_INLINE T max_lanes(Lanes<T> x) {
  return join_halves<Lanes<T>::kCount / 2>(x, [](auto y, auto z) { return larger(y, z); });
}
// Lanes below n.
template <class T>
SSSD_INLINE Mask<T> first_lanes(int n) {
  typename Mask<T>::Raw index;
  for (int i = 0; i < Lanes<T>::kCount; ++i) index[i] = i;
  return {index < n};
}

}  // namespace sssd::SSSD_ISA
