// The divergence family as plain data: what a call computes, what it saves, how a level's rows
// become one number, and what runs it. The mathematics of a member is in members.h; README.md
// derives it.
#pragma once

#include "kernels/common/cpu_isa.h"
#include "kernels/common/dtype.h"
#include "kernels/common/scalar_math.h"
#include "kernels/common/tasks.h"

namespace sssd {

// One pyramid level seen as rows, whatever is reduced and however the maps lie in memory:
//
//   element (o, g, r, i) at  o * outer_stride + g * segment_stride + r * inner + i
//   row     (o, i)       is  o * inner + i, reduced over its segments * length elements
//
// `level_of` gives them: *strided* where neighbours in memory are neighbouring rows (inner > 1),
// *contiguous* where they are elements of one row.
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

namespace sssd::divergence {

// In the order of sssd/ops/divergence_kernels.py, whose numbers these are (tests/kernels/
// test_tables.py). Over: what a row runs over.
enum class Over : int32_t { channels, cells, image, images_and_cells };
enum class Normalize : int32_t { none, softmax, standardize, l2 };
// kl is KL(teacher || student); the other way round is the same with the two lists swapped.
enum class Measure : int32_t { js, kl, mse, cosine };
enum class Root : int32_t { none, level, row };
// How the rows of a level are added up; none is a sum of which only the saved rows are wanted.
enum class Rows : int32_t { mean, sum, none };
enum class Elements : int32_t { sum, mean };  // how the elements of a row are

struct Settings {
  Normalize normalize;
  Measure measure;
  Root root;
  Rows rows;
  Elements elements;
  bool unbiased;       // standardize: variance over n - 1, eps added to the deviation
  double temperature;  // softmax
  double eps;          // standardize, l2, cosine
};

// How the rows of a map (images, channels, cells) lie in memory; pointers and places are not set.
inline Level level_of(Over over, int64_t images, int64_t channels, int64_t cells,
                      bool channels_last) {
  const int64_t image = channels * cells;
  Level level{};
  level.segments = level.inner = 1;
  if (over == Over::channels && !channels_last) {
    level.outer = images, level.length = channels, level.inner = cells;
  } else if (over == Over::channels) {
    level.outer = images * cells, level.length = channels;
  } else if (over == Over::cells && !channels_last) {
    level.outer = images * channels, level.length = cells;
  } else if (over == Over::cells) {
    level.outer = images, level.length = cells, level.inner = channels;
  } else if (over == Over::image) {
    level.outer = images, level.length = image;
  } else if (!channels_last) {  // one row a channel, a piece of it in every image
    level.outer = channels, level.segments = images, level.length = cells;
    level.segment_stride = image;
  } else {
    level.outer = 1, level.length = images * cells, level.inner = channels;
  }
  level.outer_stride = level.segments > 1 ? cells : level.length * level.inner;
  return level;
}

// Below this a divergence counts as 0 for the slope of its root.
constexpr double kRootFloor = 1e-12;

// What a row's divergence D is multiplied by.
template <class T>
SSSD_HOST_DEVICE inline T element_scale(const Settings& settings, int64_t row_length) {
  return T(settings.elements == Elements::mean ? 1.0 / double(row_length) : 1.0);
}

// What a row adds to its level: weight * contribution(D), with D the row's divergence.
template <class V>
SSSD_HOST_DEVICE inline V contribution(Root root, V scale, V divergence) {
  return root == Root::row ? fast_sqrt(divergence * scale) : divergence * scale;
}
template <class V>
SSSD_HOST_DEVICE inline V contribution(const Settings& settings, int64_t row_length, V divergence) {
  return contribution(settings.root, V(element_scale<scalar_of_t<V>>(settings, row_length)),
                      divergence);
}

// d contribution / d D.
template <class V>
SSSD_HOST_DEVICE inline V contribution_slope(Root root, V scale, V divergence) {
  if (root != Root::row) return scale;
  const V scaled = divergence * scale;
  return select(scaled <= V(kRootFloor), V(0), fast_div(scale * V(0.5), fast_sqrt(scaled)));
}
template <class V>
SSSD_HOST_DEVICE inline V contribution_slope(const Settings& settings, int64_t row_length,
                                             V divergence) {
  return contribution_slope(settings.root, V(element_scale<scalar_of_t<V>>(settings, row_length)),
                            divergence);
}

// A level's value, and d value / d (weighted sum of contributions): the factor that backward needs.
template <class T>
struct LevelValue {
  T value, factor;
};

template <class T>
SSSD_HOST_DEVICE inline LevelValue<T> level_value(const Settings& settings, T sum, T weights) {
  // `weights` is the sum of the row weights, or the number of rows where there are none.
  T factor = T(1);
  if (settings.rows == Rows::mean) factor = weights == T(0) ? T(0) : T(1) / weights;
  T value = factor == T(0) ? T(0) : sum * factor;  // no row counts: 0, whatever the sum holds
  if (settings.root == Root::level) {
    const T root = fast_sqrt(value);
    factor = value <= T(kRootFloor) ? T(0) : factor * T(0.5) / root;
    value = root;
  }
  return {value, factor};
}

// ---- the kernels on the CPU, in cpu.cpp ---------------------------------------------------------

// T is the type of sums, values and saved planes: float, or double where a side is double.
template <class T>
struct ForwardCall {
  Levels levels;
  Settings settings;
  T* values;   // (levels.count)
  T* factors;  // (levels.count)
  T* saved;    // (saved_planes, levels.rows)
  void* workspace;
  ParallelFor parallel;
};

template <class T>
struct BackwardCall {
  Levels levels;
  Settings settings;
  const T* grad_values;
  const T* factors;
  const T* saved;
  ParallelFor parallel;
};

template <class T>
struct CpuKernels {
  int64_t (*workspace_bytes)(const Levels&, const Settings&);
  void (*forward)(const ForwardCall<T>&);
  void (*backward)(const BackwardCall<T>&);
};
namespace baseline {  // compiled once for each instruction set
extern const CpuKernels<float> kernels_f32;
extern const CpuKernels<double> kernels_f64;
}  // namespace baseline
namespace avx2 {
extern const CpuKernels<float> kernels_f32;
}
namespace avx512 {
extern const CpuKernels<float> kernels_f32;
}

template <class T>
const CpuKernels<T>& cpu_kernels() {
  if constexpr (sizeof(T) == sizeof(double))
    return baseline::kernels_f64;
  else
    return SSSD_FOR_THIS_CPU(kernels_f32);
}

// ---- the launchers on CUDA, in cuda.cu ----------------------------------------------------------

// They take raw pointers of the current device, a stream, and the levels of a call (at most
// kMaxLevels; `tile0` and `tiles` are set there), and return null, or a message about what CUDA
// refused. Nothing synchronises with the host.

// Sets the floats of workspace that forward needs.
const char* cuda_workspace(const Levels& levels, const Settings& settings, int64_t& floats);

// Writes saved [saved_planes][levels.rows], values [levels.count] and factors [levels.count].
const char* cuda_forward(const Levels& levels, const Settings& settings, float* saved,
                         float* values, float* factors, float* workspace, void* stream);

// Writes the gradients that the levels ask for, given d loss / d values.
const char* cuda_backward(const Levels& levels, const Settings& settings, const float* saved,
                          const float* factors, const float* grad_values, void* stream);

}  // namespace sssd::divergence
