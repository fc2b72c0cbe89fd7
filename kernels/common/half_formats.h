// bfloat16 and IEEE half precision from and to float, by bit arithmetic on a vector of any width:
// one source for every processor.
#pragma once

#include <cstdint>

#include "kernels/common/inline.h"

namespace sssd::SSSD_ISA {

// Vectors of as many uint16_t, uint32_t and float.
template <class Narrow, class Wide, class Floats>
struct HalfFormats {
  static SSSD_INLINE Floats widen_bf16(Narrow bits) {
    return (Floats)(__builtin_convertvector(bits, Wide) << 16);
  }
  static SSSD_INLINE Narrow narrow_bf16(Floats x) {  // to nearest, ties to even; NaN stays NaN
    const Wide bits = (Wide)x;
    const Wide rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const Wide nan = (bits >> 16) | 0x40;
    return __builtin_convertvector(x == x ? rounded : nan, Narrow);
  }
  static SSSD_INLINE Floats widen_f16(Narrow bits) {
    const Wide wide = __builtin_convertvector(bits, Wide);
    const Wide magnitude = (wide & 0x7fff) << 13;
    // The exponent is 112 too small; a product also makes subnormals right.
    const Floats scaled = (Floats)magnitude * 0x1p112f;
    const Wide special = magnitude | 0x7f800000;  // infinity and NaN
    return (Floats)((magnitude >= 0x0f800000 ? special : (Wide)scaled) | ((wide & 0x8000) << 16));
  }
  static SSSD_INLINE Narrow narrow_f16(Floats x) {  // to nearest, ties to even
    const Wide bits = (Wide)x;
    const Wide sign = (bits >> 16) & 0x8000;
    const Wide magnitude = bits & 0x7fffffff;
    // Normal: rebase the exponent and round; 65520 and above carry over into infinity.
    const Wide normal = (magnitude - 0x38000000 + 0x0fff + ((magnitude >> 13) & 1)) >> 13;
    // Subnormal (below 2^-14): adding 0.5 shifts the mantissa into place and rounds it.
    const Wide subnormal = (Wide)((Floats)magnitude + 0.5f) - 0x3f000000;
    const Wide finite = magnitude < 0x38800000 ? subnormal : normal;
    const Wide infinite = magnitude > 0x7f800000 ? Wide{} + 0x7e00 : Wide{} + 0x7c00;
    return __builtin_convertvector((magnitude >= 0x47800000 ? infinite : finite) | sign, Narrow);
  }
};

}  // namespace sssd::SSSD_ISA
