// What the CPU box kernels share: how maps are cut into work, and the memory of one thread.
#pragma once

#include <cstdlib>

#include "kernels/boxes/boxes.h"
#include "kernels/common/tasks.h"

namespace sssd::boxes_cpu::SSSD_ISA {
namespace {  // of one file: what is called once is inlined, which pool's loops gain by

using sssd::SSSD_ISA::Order;
using sssd::SSSD_ISA::run_tasks;

constexpr int kTileRows = 16;  // rows of a map that paint and heatmaps take at a time

inline int64_t divide_up(int64_t n, int64_t by) { return (n + by - 1) / by; }

inline bool any_level(const BoxLevels& levels, bool channels_last) {
  for (int l = 0; l < levels.count; ++l)
    if (levels.level[l].channels_last == channels_last) return true;
  return false;
}

inline int32_t tile_bottom(int32_t top, int32_t height) {
  return height - top < kTileRows ? height : top + kTileRows;
}

// Tiles of kTileRows rows over all images and levels, visited with a stride that is prime to their
// number, so that a run of units holds tiles of every image and level.
struct RowTiles {
  int64_t per_image, total, stride;

  RowTiles(const BoxLevels& levels, int64_t batch) : per_image(0) {
    for (int l = 0; l < levels.count; ++l)
      per_image += divide_up(levels.level[l].size.height, kTileRows);
    total = per_image * batch;
    stride = total * 5 / 8 + 1;  // near the golden ratio
    while (common_divisor(stride, total) > 1) ++stride;
  }

  struct Tile {
    int64_t image;
    int level;
    int32_t top, bottom;
  };
  Tile at(const BoxLevels& levels, int64_t unit) const {
    const int64_t place = static_cast<int64_t>(static_cast<__int128>(unit) * stride % total);
    int64_t tile = place % per_image;
    int level = 0;
    for (;; ++level) {
      const int64_t here = divide_up(levels.level[level].size.height, kTileRows);
      if (tile < here) break;
      tile -= here;
    }
    const int32_t top = static_cast<int32_t>(tile * kTileRows);
    return {place / per_image, level, top, tile_bottom(top, levels.level[level].size.height)};
  }

 private:
  static int64_t common_divisor(int64_t a, int64_t b) {
    while (b != 0) {
      const int64_t rest = a % b;
      a = b;
      b = rest;
    }
    return a;
  }
};

// Uninitialised memory for one thread. (Not std::vector: the linker would share its code between
// the sets of instructions.)
template <class X>
class Scratch {
 public:
  explicit Scratch(int64_t count)
      : data_(static_cast<X*>(std::aligned_alloc(64, (count * sizeof(X) + 127) / 64 * 64))) {}
  ~Scratch() { std::free(data_); }
  Scratch(const Scratch&) = delete;
  X* get() { return data_; }
  X& operator[](int64_t i) { return data_[i]; }

 private:
  X* data_;
};

inline int32_t widest(const BoxLevels& levels) {
  int32_t width = 0;
  for (int l = 0; l < levels.count; ++l)
    width = levels.level[l].size.width > width ? levels.level[l].size.width : width;
  return width;
}

}  // namespace
}  // namespace sssd::boxes_cpu::SSSD_ISA
