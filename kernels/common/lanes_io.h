// Lanes from and to memory in any dtype.
#pragma once

#include "kernels/common/half_formats.h"
#include "kernels/common/lanes.h"

namespace sssd::SSSD_ISA {

typedef uint16_t Narrow __attribute__((vector_size(kVectorBytes / 2)));
typedef uint32_t Wide __attribute__((vector_size(kVectorBytes)));
using Halves = HalfFormats<Narrow, Wide, Lanes<float>::Raw>;
typedef float HalfFloats __attribute__((vector_size(kVectorBytes / 2)));

// Where the processor has instructions for them, as the compiler does not find those: GCC 12
// shuffles five times to widen sixteen elements.
#if defined(__AVX512F__)
SSSD_INLINE Lanes<float> widen(Narrow bits, Dtype dtype) {
  const __m256i narrow = (__m256i)bits;
  if (dtype == Dtype::f16)
    return Lanes<float>((Lanes<float>::Raw)_mm512_maskz_cvtph_ps(0xffff, narrow));
  const __m512i wide = _mm512_maskz_cvtepu16_epi32(0xffff, narrow);
  return Lanes<float>((Lanes<float>::Raw)_mm512_maskz_slli_epi32(0xffff, wide, 16));
}
// AVX512-BF16 came later than the rest. Its instruction takes numbers below the smallest normal one
// for 0.
inline const bool kHasBf16 = (__builtin_cpu_init(), __builtin_cpu_supports("avx512bf16"));

SSSD_INLINE Narrow narrow(Lanes<float> x, Dtype dtype) {
  const __m512 wide = (__m512)x.raw;
  if (dtype == Dtype::f16)
    return (Narrow)_mm512_maskz_cvtps_ph(0xffff, wide, _MM_FROUND_TO_NEAREST_INT);
  if (kHasBf16) {
    __m256i rounded;
    asm("vcvtneps2bf16 %1, %0" : "=v"(rounded) : "v"(wide));
    return (Narrow)rounded;
  }
  return Halves::narrow_bf16(x.raw);
}
#else
SSSD_INLINE Lanes<float> widen(Narrow bits, Dtype dtype) {
#ifdef __F16C__
  if (dtype == Dtype::f16) return Lanes<float>((Lanes<float>::Raw)_mm256_cvtph_ps((__m128i)bits));
#endif
  return Lanes<float>(dtype == Dtype::bf16 ? Halves::widen_bf16(bits) : Halves::widen_f16(bits));
}
SSSD_INLINE Narrow narrow(Lanes<float> x, Dtype dtype) {
#ifdef __F16C__
  if (dtype == Dtype::f16) return (Narrow)_mm256_cvtps_ph((__m256)x.raw, _MM_FROUND_TO_NEAREST_INT);
#endif
  return dtype == Dtype::bf16 ? Halves::narrow_bf16(x.raw) : Halves::narrow_f16(x.raw);
}
#endif

// ---- one vector ---------------------------------------------------------------------------------

template <class Raw>
SSSD_INLINE Raw load_raw(const void* source) {
  Raw raw;
  std::memcpy(&raw, source, sizeof raw);
  return raw;
}

SSSD_INLINE int64_t bytes_of(Dtype dtype) {
  return dtype == Dtype::f32 ? 4 : dtype == Dtype::f64 ? 8 : 2;
}
SSSD_INLINE const char* at(const void* data, Dtype dtype, int64_t offset) {
  return static_cast<const char*>(data) + offset * bytes_of(dtype);
}

template <class T>
SSSD_INLINE Lanes<T> load(const char* source, Dtype dtype);

template <>
SSSD_INLINE Lanes<float> load(const char* source, Dtype dtype) {
  if (dtype == Dtype::f32) return load_raw<Lanes<float>>(source);
  return widen(load_raw<Narrow>(source), dtype);
}
template <>
SSSD_INLINE Lanes<double> load(const char* source, Dtype dtype) {
  if (dtype == Dtype::f64) return load_raw<Lanes<double>>(source);
  HalfFloats low;
  if (dtype == Dtype::f32) {
    low = load_raw<HalfFloats>(source);
  } else {
    Narrow bits{};
    std::memcpy(&bits, source, sizeof bits / 2);
    const Lanes<float> wide = widen(bits, dtype);
    std::memcpy(&low, &wide, sizeof low);
  }
  return Lanes<double>(__builtin_convertvector(low, Lanes<double>::Raw));
}

template <class T>
SSSD_INLINE void store(char* target, Dtype dtype, Lanes<T> x);

template <>
SSSD_INLINE void store(char* target, Dtype dtype, Lanes<float> x) {
  if (dtype == Dtype::f32) {
    std::memcpy(target, &x, sizeof x);
    return;
  }
  const Narrow bits = narrow(x, dtype);
  std::memcpy(target, &bits, sizeof bits);
}
template <>
SSSD_INLINE void store(char* target, Dtype dtype, Lanes<double> x) {
  if (dtype == Dtype::f64) {
    std::memcpy(target, &x, sizeof x);
    return;
  }
  Lanes<float> low(0.0f);
  for (int i = 0; i < Lanes<double>::kCount; ++i) low.raw[i] = float(x.raw[i]);
  if (dtype == Dtype::f32) {
    std::memcpy(target, &low, sizeof low / 2);
    return;
  }
  const Narrow bits = narrow(low, dtype);
  std::memcpy(target, &bits, sizeof bits / 2);
}

// ---- the end of a row: fewer elements than lanes ------------------------------------------------

template <class T>
SSSD_INLINE Lanes<T> load_first(const char* source, Dtype dtype, int n, Lanes<T> padding) {
  alignas(64) char buffer[Lanes<T>::kCount * 8] = {};
  std::memcpy(buffer, source, n * bytes_of(dtype));
  return select(first_lanes<T>(n), load<T>(buffer, dtype), padding);
}
template <class T>
SSSD_INLINE void store_first(char* target, Dtype dtype, int n, Lanes<T> x) {
  alignas(64) char buffer[Lanes<T>::kCount * 8];
  store(buffer, dtype, x);
  std::memcpy(target, buffer, n * bytes_of(dtype));
}

}  // namespace sssd::SSSD_ISA
