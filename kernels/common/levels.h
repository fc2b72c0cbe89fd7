// A list of feature maps as plain data: what every kernel, on CPU or CUDA, receives by value.
#pragma once

#include <cstdint>

#include "kernels/common/scalar_math.h"

namespace sssd {

constexpr int kMaxLevels = 16;  // one launch; longer lists take several

enum class Dtype : int32_t { f32, f64, bf16, f16 };

// One pyramid level seen as rows, whatever is reduced and however the maps lie in memory:
//
//   element (o, g, r, i) at  o * outer_stride + g * segment_stride + r * inner + i
//   row     (o, i)       is  o * inner + i, reduced over its segments * length elements
//
// `level_of` in kernels/divergence/divergence.h gives them: *strided* where neighbours in memory
// are neighbouring rows (inner > 1), *contiguous* where they are elements of one row.
//
// So segments == 1 or inner == 1, always; and a row has the same index in both memory formats.
struct Level {
  const void* student;
  const void* teacher;
  void* grad_student;    // null: not asked for, nothing is written
  void* grad_teacher;    // null: not asked for
  const float* weights;  // one a row; null: all 1
  int64_t outer, segments, length, inner;
  int64_t outer_stride, segment_stride;  // in elements
  int64_t row0;                          // of this level's first row in the saved planes
  int64_t tile0;                         // of this level's first tile in the launch

  SSSD_HOST_DEVICE int64_t rows() const { return outer * inner; }
  SSSD_HOST_DEVICE int64_t row_length() const { return segments * length; }
};

struct Levels {
  Level level[kMaxLevels];
  int count;
  int64_t rows;   // of all levels of the call: the length of one saved plane
  int64_t tiles;  // of all levels of the launch
  Dtype student_dtype, teacher_dtype;

  // The level that owns a tile (tiles of level l start at level[l].tile0).
  SSSD_HOST_DEVICE int find(int64_t tile) const {
    int l = 0;
    while (l + 1 < count && tile >= level[l + 1].tile0) ++l;
    return l;
  }
};

}  // namespace sssd
