// Embedded label heatmaps on the CPU: for some rows at a time, one class after the other is drawn
// into scratch memory and mixed into the channels. The (B, K, H, W) heatmap never exists.
#pragma once

#include "kernels/boxes/heatmap_cpu.h"

namespace sssd::boxes_cpu {
namespace {

// Calls visit(class, left, right, rows) for each class that occurs in the tile, with its heatmap on
// the tile's rows; it is zero outside columns left .. right - 1.
template <class A, class Visit>
void for_each_class(const HeatmapProblem& problem, const Objects& objects,
                    const RowTiles::Tile& tile, A* columns, A* rows, Visit visit) {
  const int64_t width = problem.levels.level[tile.level].size.width;
  const Stamp* stamps = objects.stamps(tile.level);
  for (int64_t k = 0; k < problem.classes; ++k) {
    const int64_t group = tile.image * problem.classes + k;
    const int64_t begin = objects.start[group], end = objects.start[group + 1];
    int32_t left = static_cast<int32_t>(width), right = 0;
    for (int64_t object = begin; object < end; ++object) {
      const CellSpan& window = stamps[object].window;
      if (window.top >= tile.bottom || window.bottom <= tile.top || window.empty()) continue;
      left = window.left < left ? window.left : left;
      right = window.right > right ? window.right : right;
    }
    if (left >= right) continue;
    std::memset(rows, 0, sizeof(A) * width * (tile.bottom - tile.top));
    draw<A>(problem, objects, tile.level, begin, end, tile.top, tile.bottom, columns, rows);
    visit(k, left, right);
  }
}

template <class T>
void embed_run(const EmbedProblem& problem, const Objects& objects, int64_t begin, int64_t end) {
  using A = accumulator_t<T>;
  const HeatmapProblem& heatmap = problem.heatmap;
  const RowTiles tiles(heatmap.levels, heatmap.batch);
  const int64_t channels = problem.channels, most = int64_t{kTileRows} * widest(heatmap.levels);
  Scratch<A> columns(widest(heatmap.levels)), rows(most), mixed(most * channels);
  const T* embedding = static_cast<const T*>(problem.embedding);
  for (int64_t unit = begin; unit < end; ++unit) {
    const RowTiles::Tile tile = tiles.at(heatmap.levels, unit);
    const BoxLevel& map = heatmap.levels.level[tile.level];
    const int64_t width = map.size.width, cells = width * (tile.bottom - tile.top);
    T* out = static_cast<T*>(map.map) + tile.image * channels * map.cells() + tile.top * width;
    bool any = false;
    for_each_class<A>(heatmap, objects, tile, columns.get(), rows.get(),
                      [&](int64_t k, int32_t left, int32_t right) {
                        if (!any) std::memset(mixed.get(), 0, sizeof(A) * cells * channels);
                        any = true;
                        for (int64_t c = 0; c < channels; ++c) {
                          const A factor = to_accumulator(embedding[k * channels + c]);
                          for (int64_t row = 0; row < cells; row += width) {
                            const A* heat = rows.get() + row;
                            A* to = mixed.get() + c * cells + row;
                            for (int32_t j = left; j < right; ++j) to[j] += factor * heat[j];
                          }
                        }
                      });
    for (int64_t c = 0; c < channels; ++c) {
      if (any) {
        convert<T>(mixed.get() + c * cells, cells, out + c * map.cells());
      } else {
        std::memset(out + c * map.cells(), 0, sizeof(T) * cells);
      }
    }
  }
}

// sum of x[j] y[j] over left .. right - 1.
template <class T>
accumulator_t<T> dot(const T* x, const accumulator_t<T>* y, int32_t left, int32_t right) {
  using A = accumulator_t<T>;
  Sixteen<A> total = {}, a, b;
  int32_t j = left;
  for (; j + kLanes <= right; j += kLanes) {
    load(x + j, a);
    load(y + j, b);
    total += a * b;
  }
  if (j < right) {
    load_some(x + j, right - j, a);
    load_some(y + j, right - j, b);
    total += a * b;
  }
  return sum<A>(total);
}

// Units: blocks of channels. Each draws all heatmaps again: cheap beside kEmbedBlock products a
// cell.
template <class T>
void embed_backward_run(const EmbedProblem& problem, const Objects& objects, int64_t begin,
                        int64_t end) {
  using A = accumulator_t<T>;
  const HeatmapProblem& heatmap = problem.heatmap;
  const RowTiles tiles(heatmap.levels, heatmap.batch);
  const int64_t channels = problem.channels;
  const int64_t first = begin * kEmbedBlock;
  const int64_t last = end * kEmbedBlock < channels ? end * kEmbedBlock : channels;
  const int64_t block = last - first;
  Scratch<A> columns(widest(heatmap.levels));
  Scratch<A> rows(int64_t{kTileRows} * widest(heatmap.levels));
  Scratch<A> total(heatmap.classes * block);
  std::memset(total.get(), 0, sizeof(A) * heatmap.classes * block);
  for (int64_t unit = 0; unit < tiles.total; ++unit) {
    const RowTiles::Tile tile = tiles.at(heatmap.levels, unit);
    const BoxLevel& map = heatmap.levels.level[tile.level];
    const int64_t width = map.size.width, cells = width * (tile.bottom - tile.top);
    const T* grad = static_cast<const T*>(map.map) + (tile.image * channels + first) * map.cells() +
                    tile.top * width;
    for_each_class<A>(heatmap, objects, tile, columns.get(), rows.get(),
                      [&](int64_t k, int32_t left, int32_t right) {
                        for (int64_t c = 0; c < block; ++c)
                          for (int64_t row = 0; row < cells; row += width)
                            total[k * block + c] +=
                                dot(grad + c * map.cells() + row, rows.get() + row, left, right);
                      });
  }
  T* out = static_cast<T*>(problem.embedding);
  for (int64_t k = 0; k < heatmap.classes; ++k)
    for (int64_t c = 0; c < block; ++c)
      out[k * channels + first + c] = from_accumulator<T>(total[k * block + c]);
}

}  // namespace
}  // namespace sssd::boxes_cpu
