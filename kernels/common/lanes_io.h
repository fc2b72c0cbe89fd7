// Lanes from and to memory in any dtype.
#pragma once

#include "kernels/common/lanes.h"

namespace sssd::SSSD_ISA {

typedef uint16_t Narrow __attribute__((vector_size(kVectorBytes / 2)));
typedef uint32_t Wide __attribute__((vector_size(kVectorBytes)));
typedef float HalfFloats __attribute__((vector_size(kVectorBytes / 2)));

SSSD_INLINE Lanes<float> as_float(Wide bits) { return Lanes<float>((Lanes<float>::Raw)bits); }

// ---- the two 16-bit formats, by bit arithmetic --------------------------------------------------

SSSD_INLINE Lanes<float> widen_bf16(Narrow bits) {
  return as_float(__builtin_convertvector(bits, Wide) << 16);
}
SSSD_INLINE Narrow narrow_bf16(Lanes<float> x) {  // to nearest, ties to even; NaN stays NaN
  const Wide bits = (Wide)x.raw;
  const Wide rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Wide nan = (bits >> 16) | 0x40;
  return __builtin_convertvector(x.raw == x.raw ? rounded : nan, Narrow);
}
SSSD_INLINE Lanes<float> widen_f16(Narrow bits) {
  const Wide wide = __builtin_convertvector(bits, Wide);
  const Wide magnitude = (wide & 0x7fff) << 13;
  // The exponent is 112 too small; a product also makes subnormals right.
  const Lanes<float> scaled = as_float(magnitude) * Lanes<float>(0x1p112f);
  const Wide special = magnitude | 0x7f800000;  // infinity and NaN
  return as_float(((magnitude >= 0x0f800000) ? special : (Wide)scaled.raw) |
                  ((wide & 0x8000) << 16));
}
SSSD_INLINE Narrow narrow_f16(Lanes<float> x) {  // to nearest, ties to even
  const Wide bits = (Wide)x.raw;
  const Wide sign = (bits >> 16) & 0x8000;
  const Wide magnitude = bits & 0x7fffffff;
  // Normal: rebase the exponent and round; 65520 and above carry over into infinity by themselves.
  const Wide normal = (magnitude - 0x38000000 + 0x0fff + ((magnitude >> 13) & 1)) >> 13;
  // Subnormal (below 2^-14): adding 0.5 shifts the mantissa into place and rounds it.
  const Wide subnormal = (Wide)(as_float(magnitude) + Lanes<float>(0.5f)).raw - 0x3f000000;
  const Wide finite = magnitude < 0x38800000 ? subnormal : normal;
  const Wide infinite = magnitude > 0x7f800000 ? Wide{} + 0x7e00 : Wide{} + 0x7c00;
  return __builtin_convertvector((magnitude >= 0x47800000 ? infinite : finite) | sign, Narrow);
}

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
  const Narrow bits = load_raw<Narrow>(source);
  return dtype == Dtype::bf16 ? widen_bf16(bits) : widen_f16(bits);
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
    const Lanes<float> wide = dtype == Dtype::bf16 ? widen_bf16(bits) : widen_f16(bits);
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
  const Narrow bits = dtype == Dtype::bf16 ? narrow_bf16(x) : narrow_f16(x);
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
  const Narrow bits = dtype == Dtype::bf16 ? narrow_bf16(low) : narrow_f16(low);
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
