// Lanes from and to memory in any dtype.
#pragma once

#include "kernels/common/half_formats.h"
#include "kernels/common/lanes.h"

namespace sssd::SSSD_ISA {

typedef uint16_t Narrow __attribute__((vector_size(kVectorBytes / 2)));
typedef uint32_t Wide __attribute__((vector_size(kVectorBytes)));
using Halves = HalfFormats<Narrow, Wide, Lanes<float>::Raw>;
typedef float HalfFloats __attribute__((vector_size(kVectorBytes / 2)));

SSSD_INLINE Lanes<float> widen(Narrow bits, Dtype dtype) {
  return Lanes<float>(dtype == Dtype::bf16 ? Halves::widen_bf16(bits) : Halves::widen_f16(bits));
}
SSSD_INLINE Narrow narrow(Lanes<float> x, Dtype dtype) {
  return dtype == Dtype::bf16 ? Halves::narrow_bf16(x.raw) : Halves::narrow_f16(x.raw);
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
