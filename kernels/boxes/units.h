// How the work of the CPU kernels is cut: shared by those who count the units and those who run
// them.
#pragma once

#include "kernels/boxes/boxes.h"

namespace sssd::boxes_cpu {
namespace {  // each set of instructions has its own copy

constexpr int kPoolPlanes = 16;   // planes that one unit of pool takes
constexpr int kTileCells = 4096;  // cells that pool transposes at a time: 256 KB of float32
constexpr int kPaintPlanes = 16;  // planes of all contiguous levels that one unit of paint takes
constexpr int kEmbedBlock = 32;   // channels that one unit of the backward of embed takes
constexpr int kTileRows = 16;     // rows of a map that paint and embed take at a time

inline int64_t divide_up(int64_t n, int64_t by) { return (n + by - 1) / by; }

inline bool any_level(const BoxLevels& levels, bool channels_last) {
  for (int l = 0; l < levels.count; ++l)
    if (levels.level[l].channels_last == channels_last) return true;
  return false;
}

inline int32_t tile_bottom(int32_t top, int32_t height) {
  return height - top < kTileRows ? height : top + kTileRows;
}

inline int64_t pool_plane_units(const PoolProblem& problem) {
  const int64_t blocks = divide_up(problem.channels, kPoolPlanes);
  return any_level(problem.levels, false) ? blocks * problem.levels.count * problem.batch : 0;
}
inline int64_t pool_cell_units(const PoolProblem& problem, int64_t objects) {
  return any_level(problem.levels, true) ? objects * problem.levels.count : 0;
}

inline int64_t paint_plane_units(const PaintProblem& problem) {
  const int64_t blocks = divide_up(problem.channels, kPaintPlanes);
  return any_level(problem.levels, false) ? problem.batch * blocks : 0;
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

}  // namespace
}  // namespace sssd::boxes_cpu
