// Element types of maps, and how many levels one launch takes.
#pragma once

#include <cstdint>

#include "kernels/common/scalar_math.h"

namespace sssd {

constexpr int kMaxLevels = 16;  // one launch; longer lists take several

enum class Dtype : int32_t { f32, f64, bf16, f16 };

}  // namespace sssd
