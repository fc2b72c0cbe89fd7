// The arithmetic the functors are written in, for float and double. `Lanes` (lanes.h) supplies the
// same names for vectors, so that one functor serves a CUDA thread and sixteen CPU lanes.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__) || defined(SSSD_HOST_CUDA)
#define SSSD_HOST_DEVICE __host__ __device__
#else
// Always inlined: a kernel is compiled for several instruction sets, and the linker keeps but one
// copy of an inline function.
#define SSSD_HOST_DEVICE __attribute__((always_inline))
#endif

namespace sssd {

template <class V>
struct scalar_of {
  using type = typename V::Scalar;
};
template <>
struct scalar_of<float> {
  using type = float;
};
template <>
struct scalar_of<double> {
  using type = double;
};
template <class V>
using scalar_of_t = typename scalar_of<V>::type;

SSSD_HOST_DEVICE inline float select(bool take, float x, float y) { return take ? x : y; }
SSSD_HOST_DEVICE inline double select(bool take, double x, double y) { return take ? x : y; }
SSSD_HOST_DEVICE inline float fast_abs(float x) { return fabsf(x); }
SSSD_HOST_DEVICE inline double fast_abs(double x) { return fabs(x); }
SSSD_HOST_DEVICE inline float fast_sqrt(float x) { return sqrtf(x); }
SSSD_HOST_DEVICE inline double fast_sqrt(double x) { return sqrt(x); }
#ifdef __CUDA_ARCH__  // within 2 units in the last place, without the slow path of an exact
                      // division
__device__ inline float fast_div(float x, float y) { return __fdividef(x, y); }
#else
SSSD_HOST_DEVICE inline float fast_div(float x, float y) { return x / y; }
#endif
SSSD_HOST_DEVICE inline double fast_div(double x, double y) { return x / y; }
SSSD_HOST_DEVICE inline float fast_log2(float x) { return log2f(x); }
SSSD_HOST_DEVICE inline double fast_log2(double x) { return log2(x); }
SSSD_HOST_DEVICE inline float fast_exp2(float x) { return exp2f(x); }
SSSD_HOST_DEVICE inline double fast_exp2(double x) { return exp2(x); }

// The nearest whole number, and 2^n for a whole n in [-127, 127] (2^-127 flushed to 0). On CUDA the
// conversion unit is as scarce as the one for exponentials: adding 1.5 2^23 leaves the rounded
// number in the low bits of a float instead.
#if defined(__CUDA_ARCH__) || defined(SSSD_HOST_CUDA)
constexpr float kRoundingShift = 12582912.0f;
SSSD_HOST_DEVICE inline float round_whole(float x) { return (x + kRoundingShift) - kRoundingShift; }
SSSD_HOST_DEVICE inline float exp2_whole(float n) {
  const float shifted = n + kRoundingShift;
#ifdef __CUDA_ARCH__
  return __int_as_float((__float_as_int(shifted) << 23) + (127 << 23));
#else
  uint32_t bits;
  memcpy(&bits, &shifted, sizeof(bits));
  bits = (bits << 23) + (127u << 23);
  float power;
  memcpy(&power, &bits, sizeof(power));
  return power;
#endif
}
#else
SSSD_HOST_DEVICE inline float round_whole(float x) { return rintf(x); }
SSSD_HOST_DEVICE inline float exp2_whole(float n) { return n > -126.5f ? exp2f(n) : 0.0f; }
#endif

// The larger of two; NaN is not kept, the sums that follow carry it.
template <class V>
SSSD_HOST_DEVICE inline V larger(V x, V y) {
  return select(x > y, x, y);
}

// a0 + x (a1 + x (a2 + ...)) with coefficients in the scalar type of V.
template <class V>
SSSD_HOST_DEVICE inline V polynomial(V, double a0) {
  return V(scalar_of_t<V>(a0));
}
template <class V, class... More>
SSSD_HOST_DEVICE inline V polynomial(V x, double a0, More... more) {
  return V(scalar_of_t<V>(a0)) + x * polynomial(x, more...);
}

// 2^-t for t >= 0 and 1 - 2^-t, the second with its own full relative accuracy near t = 0.
template <class V>
struct Decay {
  V value, rest;
};

template <class V>
SSSD_HOST_DEVICE inline Decay<V> decay(V t) {
  t = select(t > V(127.0f), V(127.0f), t);  // NaN stays NaN
  const V whole = round_whole(t);
  const V r = whole - t;  // in [-1/2, 1/2]: 2^-t = 2^-whole 2^r
  const V excess = r * polynomial(r, 6.931471879e-01, 2.402264979e-01, 5.550357434e-02,
                                  9.618237508e-03, 1.339073546e-03, 1.540350824e-04);
  const V power = exp2_whole(-whole);
  return {power + power * excess, (V(1.0f) - power) - power * excess};
}
template <>
SSSD_HOST_DEVICE inline Decay<double> decay(double t) {
  return {exp2(-t), -expm1(-t * 0.69314718055994530942)};
}

// log(1 + u) and psi(u) = (1 + u) log(1 + u) - u for u in [0, 1], both with full relative accuracy:
// with log(1 + u) = u + u^2 B(u), psi(u) = u^2 (1 + (1 + u) B(u)), which never subtracts equals.
template <class V>
struct LogPsi {
  V log1p, psi;
};

template <class V>
SSSD_HOST_DEVICE inline LogPsi<V> log1p_psi(V u) {
  const V b = polynomial(u, -4.999999652e-01, 3.333278711e-01, -2.498544719e-01, 1.984588876e-01,
                         -1.581652159e-01, 1.149769958e-01, -6.601953336e-02, 2.477989414e-02,
                         -4.357295277e-03);
  const V square = u * u;
  return {u + square * b, square * (V(1.0f) + (V(1.0f) + u) * b)};
}
template <>
SSSD_HOST_DEVICE inline LogPsi<double> log1p_psi(double u) {
  const double series =
      u * u * polynomial(u, 1.0 / 2, -1.0 / 6, 1.0 / 12, -1.0 / 20, 1.0 / 30, -1.0 / 42, 1.0 / 56);
  return {log1p(u), u < 1e-2 ? series : (1.0 + u) * log1p(u) - u};
}

}  // namespace sssd
