// The arithmetic the functors are written in, for float and double. `Lanes` (lanes.h) supplies the
// same names for vectors, so that one functor serves a CUDA thread and sixteen CPU lanes.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/common/oldest_glibc.h"

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
// On a GPU within 2 units in the last place, without the slow path of an exact division.
#ifdef __CUDA_ARCH__
__device__ inline float fast_div(float x, float y) { return __fdividef(x, y); }
#else
SSSD_HOST_DEVICE inline float fast_div(float x, float y) { return x / y; }
#endif
SSSD_HOST_DEVICE inline double fast_div(double x, double y) { return x / y; }
SSSD_HOST_DEVICE inline float fast_log2(float x) { return log2f(x); }
SSSD_HOST_DEVICE inline double fast_log2(double x) { return log2(x); }
// On CUDA a result below the smallest normal number is 0: to keep such ones takes three more
// instructions.
#ifdef __CUDA_ARCH__
__device__ inline float fast_exp2(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}
#elif defined(SSSD_HOST_CUDA)
inline float fast_exp2(float x) {
  const float power = exp2f(x);
  return power < FLT_MIN ? 0.0f : power;
}
#else
SSSD_HOST_DEVICE inline float fast_exp2(float x) { return exp2f(x); }
#endif
SSSD_HOST_DEVICE inline double fast_exp2(double x) { return exp2(x); }

// The nearest whole number, and 2^n for a whole n in [-127, 127] (2^-127 flushed to 0).
SSSD_HOST_DEVICE inline float round_whole(float x) { return rintf(x); }
SSSD_HOST_DEVICE inline float exp2_whole(float n) { return n > -126.5f ? exp2f(n) : 0.0f; }

// The larger of two; NaN is not kept, the sums that follow carry it.
template <class V>
SSSD_HOST_DEVICE inline V larger(V x, V y) {
  return select(x > y, x, y);
}
#if defined(__CUDACC__) || defined(SSSD_HOST_CUDA)
template <>  // one instruction instead of two
SSSD_HOST_DEVICE inline float larger(float x, float y) {
  return fmaxf(x, y);
}
#endif

// The smaller of two, `y` where x is NaN.
template <class V>
SSSD_HOST_DEVICE inline V smaller(V x, V y) {
  return select(x < y, x, y);
}

// What an element adds to a row's sum.
template <class V>
SSSD_HOST_DEVICE inline void accumulate(V& sum, V x) {
  sum = sum + x;
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

// 2^-t for t >= 0 and 1 - 2^-t, the second with its own full relative accuracy near t = 0. NaN, as
// inf - inf of an element without mass gives it, is taken for a large t.
template <class V>
struct Decay {
  V value, rest;
};

template <class V>
SSSD_HOST_DEVICE inline Decay<V> decay(V t) {
  t = smaller(t, V(127.0f));
  const V whole = round_whole(t);
  const V r = whole - t;  // in [-1/2, 1/2]: 2^-t = 2^-whole 2^r
  const V excess = r * polynomial(r, 6.931471879e-01, 2.402264979e-01, 5.550357434e-02,
                                  9.618237508e-03, 1.339073546e-03, 1.540350824e-04);
  const V power = exp2_whole(-whole);
  return {power + power * excess, (V(1.0f) - power) - power * excess};
}
#if defined(__CUDACC__) || defined(SSSD_HOST_CUDA)
// What binds a CUDA kernel is how many instructions it issues, of any kind: the exponential is one,
// and from t = 1/2 on the difference from 1 is right to the same few units in the last place.
template <>
SSSD_HOST_DEVICE inline Decay<float> decay(float t) {
  t = smaller(t, 127.0f);
  const float power = fast_exp2(-t);
  const float near = t * polynomial(t, 6.931471717e-01, -2.402256428e-01, 5.549040645e-02,
                                    -9.541281081e-03, 1.154452271e-03);
  return {power, select(t < 0.5f, near, 1.0f - power)};
}
#endif
template <>
SSSD_HOST_DEVICE inline Decay<double> decay(double t) {
  t = smaller(t, 2000.0);
  return {exp2(-t), -expm1(-t * 0.69314718055994530942)};
}

// Of two masses 1 and 1 - v and their mean m = 1 - v / 2, each with full relative accuracy:
// log = log(1 / m), and the terms of the divergences from the mean, above = log - v / 2 of the
// larger mass and above + gap of the smaller, this one for v < 1/4.
template <class V>
struct Midpoint {
  V log, above, gap;
};

template <class V>
SSSD_HOST_DEVICE inline Midpoint<V> midpoint(V v) {
  const V square = v * v;
  const V above = square * polynomial(v, 1.250000050e-01, 4.166587518e-02, 1.564549792e-02,
                                      6.047892077e-03, 3.587345233e-03, -1.510514501e-03,
                                      4.458567297e-03, -3.035555912e-03, 1.288060575e-03);
  const V gap = square * v *
                polynomial(v, 4.166747497e-02, 4.162214637e-02, 3.516169996e-02, 2.116527859e-02,
                           4.016518158e-02);
  return {above + V(0.5f) * v, above, gap};
}
template <>
SSSD_HOST_DEVICE inline Midpoint<double> midpoint(double v) {
  const double square = v * v, log = -log1p(-v / 2);
  const double series = square * polynomial(v, 1.0 / 8, 1.0 / 24, 1.0 / 64, 1.0 / 160, 1.0 / 384,
                                            1.0 / 896, 1.0 / 2048, 1.0 / 4608);
  const double gap = square * v *
                     polynomial(v, 1.0 / 24, 1.0 / 24, 11.0 / 320, 13.0 / 480, 19.0 / 896,
                                15.0 / 896, 247.0 / 18432);
  return {log, v < 1e-2 ? series : log - v / 2, gap};
}

}  // namespace sssd
