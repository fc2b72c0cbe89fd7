// What the box kernels receive, on CPU or CUDA: raw pointers and sizes, by value.
#pragma once

#include "kernels/boxes/geometry.h"

namespace sssd {

// Objects of a batch, in any order. An image index outside the batch belongs to no image: such an
// object is never read from a map nor painted.
struct PackedObjects {
  const void* boxes;        // (T, 4) xyxy in pixels of the padded batch
  const void* image_index;  // (T,)
  bool boxes_f64;           // else float32
  bool index_i64;           // else int32
  int64_t count;            // T
  Size image;               // (H, W) of the padded batch

  SSSD_HOST_DEVICE Box box(int64_t t) const {
    if (boxes_f64) {
      const double* corner = static_cast<const double*>(boxes) + 4 * t;
      return {corner[0], corner[1], corner[2], corner[3]};
    }
    const float* corner = static_cast<const float*>(boxes) + 4 * t;
    return {corner[0], corner[1], corner[2], corner[3]};
  }
  SSSD_HOST_DEVICE int64_t image_of(int64_t t) const {
    return index_i64 ? static_cast<const int64_t*>(image_index)[t]
                     : static_cast<const int32_t*>(image_index)[t];
  }
};

// One pyramid level: B dense maps of C channels; channels_last means (B, H, W, C) in memory.
struct BoxLevel {
  void* map;
  Size size;
  bool channels_last;

  SSSD_HOST_DEVICE int64_t cells() const { return int64_t{size.height} * size.width; }
};

struct BoxLevels {
  BoxLevel level[kMaxLevels];
  int count;
};

// pooled[l, t, c] = sum of map[l][b_t, c] over the cells of object t, over their number if `mean`.
struct PoolProblem {
  BoxLevels levels;  // read
  PackedObjects objects;
  void* pooled;  // (P, T, C), zero where a CPU kernel finds nothing to write
  Dtype dtype;   // of maps and pooled
  int64_t batch, channels;
  bool mean;
};

// map[l][b, c, i, j] = sum over the objects of image b that cover (i, j), in order, of
// values[l, t, c], over their number of cells if `mean`. The transpose of pool.
struct PaintProblem {
  BoxLevels levels;  // written, every element
  PackedObjects objects;
  const void* values;
  int64_t value_level_stride;  // 0: the same (T, C) on every level
  Dtype dtype;                 // of values and maps
  int64_t batch, channels;
  bool mean;
};

enum class Profile : int32_t { box, pyramid, gaussian, gaussian_legacy };
enum class Combine : int32_t { max, sum };

// heatmap[l][b, k] = max or sum, over the objects of image b and class k, of their profile.
struct HeatmapProblem {
  BoxLevels levels;  // (B, K, H_l, W_l), written, every element; never channels_last
  PackedObjects objects;
  const void* labels;     // (T,), as wide as the image index
  const bool* assigned;   // (P, T): the levels that show an object; null: all
  const float* strength;  // (T,); null: all 1
  Dtype dtype;            // of the heatmaps
  int64_t batch, classes;
  Profile profile;
  Combine combine;
  double min_overlap;

  SSSD_HOST_DEVICE int64_t label_of(int64_t t) const {
    return objects.index_i64 ? static_cast<const int64_t*>(labels)[t]
                             : static_cast<const int32_t*>(labels)[t];
  }
  SSSD_HOST_DEVICE bool shown(int level, int64_t t) const {
    return assigned == nullptr || assigned[level * objects.count + t];
  }
};

}  // namespace sssd
