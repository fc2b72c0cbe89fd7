// Pool on the CPU: sixteen channels at once, cell by cell. Contiguous maps are transposed on the
// way, sixteen planes and some rows at a time, and only where an object needs them: summing along
// the short rows of many planes would cost more than the transposition.
#pragma once

#include <cstring>

#include "kernels/boxes/cpu.h"
#include "kernels/boxes/simd.h"
#include "kernels/boxes/work_cpu.h"

namespace sssd::boxes_cpu::SSSD_ISA {
namespace {

constexpr int kTileCells = 4096;  // cells that are transposed at a time: 256 KB of float32

// Sixteen channels of one contiguous level, with channels innermost where an object needs them.
template <class T>
class PlanePooler {
  using A = accumulator_t<T>;

 public:
  PlanePooler(const PoolProblem& problem, const Objects& objects)
      : problem_(problem),
        objects_(objects),
        tile_cells_(most(kTileCells, widest(problem.levels))),
        cells_((tile_cells_ + 2 * kLanes) * kLanes),
        needed_(tile_cells_ / kLanes + 3),
        list_(tile_cells_ / kLanes + 4),
        total_(objects.count * kLanes) {}

  void pool(int level, int64_t image, int64_t channel) {
    const BoxLevel& map = problem_.levels.level[level];
    const int64_t channels = problem_.channels, width = map.size.width;
    const int64_t count = channels - channel < kLanes ? channels - channel : kLanes;
    const T* planes = static_cast<const T*>(map.map) + (image * channels + channel) * map.cells();
    const CellSpan* spans = objects_.spans(level);
    const int64_t begin = objects_.start[image], end = objects_.start[image + 1];
    std::memset(total_.get(), 0, sizeof(A) * (end - begin) * kLanes);
    for (int64_t top = 0; top < map.size.height; top += tile_rows(width)) {
      const int64_t bottom = least(map.size.height, top + tile_rows(width));
      transpose_needed(planes, map, count, spans, begin, end, top, bottom);
      for (int64_t k = begin; k < end; ++k)
        add_rows(spans[k], width, top, bottom, total_.get() + (k - begin) * kLanes);
    }
    T* pooled = static_cast<T*>(problem_.pooled) + level * problem_.objects.count * channels;
    for (int64_t k = begin; k < end; ++k) {
      if (spans[k].empty()) continue;
      Sixteen<A> total;
      load(total_.get() + (k - begin) * kLanes, total);
      if (problem_.mean) total /= static_cast<A>(spans[k].cells());
      store_some(pooled + objects_.row[k] * channels + channel, count, total);
    }
  }

 private:
  static constexpr int kAhead = 4;  // groups of cells asked for before they are read
  static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
  static int64_t most(int64_t a, int64_t b) { return a < b ? b : a; }
  // As many rows as the second-level cache holds beside the maps: at most tile_cells_ cells, and a
  // narrow level may have more of them than the widest.
  static int64_t tile_rows(int64_t width) {
    return width > 0 && width < kTileCells ? kTileCells / width : 1;
  }

  // cells_ (cell, 16 channels) for the cells of rows top .. bottom - 1 that a span covers, counted
  // from the first whole group of sixteen cells.
  void transpose_needed(const T* planes, const BoxLevel& map, int64_t count, const CellSpan* spans,
                        int64_t begin, int64_t end, int64_t top, int64_t bottom) {
    const int64_t width = map.size.width;
    first_ = top * width / kLanes * kLanes;
    const int64_t groups = divide_up(bottom * width - first_, kLanes);
    std::memset(needed_.get(), 0, groups);
    for (int64_t k = begin; k < end; ++k) {
      const CellSpan& span = spans[k];
      const int64_t last = least(span.bottom, bottom);
      for (int64_t i = span.top > top ? span.top : top; i < last; ++i) {
        const int64_t from = (i * width + span.left - first_) / kLanes;
        const int64_t to = (i * width + span.right - 1 - first_) / kLanes;
        std::memset(needed_.get() + from, 1, to - from + 1);
      }
    }
    int64_t found = 0;
    for (int64_t g = 0; g < groups; ++g) {
      list_[found] = static_cast<int32_t>(g);
      found += needed_[g];
    }
    for (int64_t n = 0; n < found; ++n) {
      const int64_t g = list_[n], cell = first_ + g * kLanes;
      if (n + kAhead < found)
        for (int64_t c = 0; c < count; ++c)
          __builtin_prefetch(planes + c * map.cells() + first_ + list_[n + kAhead] * kLanes);
      A block[kLanes * kLanes];
      for (int64_t c = 0; c < count; ++c) {
        const T* from = planes + c * map.cells() + cell;
        Sixteen<A> value;
        if (cell + kLanes <= map.cells()) {
          load(from, value);
        } else {
          load_some(from, map.cells() - cell, value);
        }
        store(block + c * kLanes, value);
      }
      for (int64_t c = count; c < kLanes; ++c) store(block + c * kLanes, Sixteen<A>{});
      transpose(block, kLanes, cells_.get() + g * kLanes * kLanes, kLanes);
    }
  }

  // Adds the cells of a span on rows top .. bottom - 1, row by row.
  void add_rows(const CellSpan& span, int64_t width, int64_t top, int64_t bottom, A* sum) {
    const int64_t last = least(span.bottom, bottom);
    int64_t i = span.top > top ? span.top : top;
    if (i >= last) return;
    Sixteen<A> total, cell;
    load(sum, total);
    for (; i < last; ++i) {
      const A* from = cells_.get() + (i * width + span.left - first_) * kLanes;
      Sixteen<A> even = {}, odd = {};
      int64_t j = span.left;
      for (; j + 1 < span.right; j += 2, from += 2 * kLanes) {
        load(from, cell);
        even += cell;
        load(from + kLanes, cell);
        odd += cell;
      }
      if (j < span.right) {
        load(from, cell);
        even += cell;
      }
      total += even + odd;
    }
    store(sum, total);
  }

  const PoolProblem& problem_;
  const Objects& objects_;
  int64_t tile_cells_, first_ = 0;
  Scratch<A> cells_;
  Scratch<uint8_t> needed_;  // groups of sixteen cells that a span touches
  Scratch<int32_t> list_;
  Scratch<A> total_;  // (objects of the image, 16)
};

// kVectors * 16 channels of one span, channels-last.
template <int kVectors, class T>
void pool_cells(const T* map, int64_t width, int64_t channels, CellSpan span,
                accumulator_t<T> divisor, T* pooled) {
  using A = accumulator_t<T>;
  Sixteen<A> total[kVectors] = {}, value;
  for (int32_t i = span.top; i < span.bottom; ++i) {
    const T* cell = map + (i * width + span.left) * channels;
    for (int32_t j = span.left; j < span.right; ++j, cell += channels) {
      for (int v = 0; v < kVectors; ++v) {
        load(cell + v * kLanes, value);
        total[v] += value;
      }
    }
  }
  for (int v = 0; v < kVectors; ++v) store(pooled + v * kLanes, total[v] / divisor);
}

// The last channels, fewer than sixteen.
template <class T>
void pool_last_cells(const T* map, int64_t width, int64_t channels, int64_t count, CellSpan span,
                     accumulator_t<T> divisor, T* pooled) {
  Sixteen<accumulator_t<T>> total = {}, value;
  for (int32_t i = span.top; i < span.bottom; ++i) {
    for (int32_t j = span.left; j < span.right; ++j) {
      load_some(map + (i * width + j) * channels, count, value);
      total += value;
    }
  }
  store_some(pooled, count, total / divisor);
}

// One object on one channels-last level.
template <class T>
void pool_channels_last(const PoolProblem& problem, const Objects& objects, int level, int64_t k,
                        int64_t image) {
  using A = accumulator_t<T>;
  const BoxLevel& map = problem.levels.level[level];
  const CellSpan span = objects.spans(level)[k];
  if (span.empty()) return;
  const int64_t channels = problem.channels, width = map.size.width;
  const A divisor = problem.mean ? static_cast<A>(span.cells()) : A(1);
  const T* cells = static_cast<const T*>(map.map) + image * map.cells() * channels;
  T* pooled =
      static_cast<T*>(problem.pooled) + (level * problem.objects.count + objects.row[k]) * channels;
  int64_t c = 0;
  for (; c + 16 * kLanes <= channels; c += 16 * kLanes)
    pool_cells<16>(cells + c, width, channels, span, divisor, pooled + c);
  for (; c + 4 * kLanes <= channels; c += 4 * kLanes)
    pool_cells<4>(cells + c, width, channels, span, divisor, pooled + c);
  for (; c + kLanes <= channels; c += kLanes)
    pool_cells<1>(cells + c, width, channels, span, divisor, pooled + c);
  if (c < channels)
    pool_last_cells(cells + c, width, channels, channels - c, span, divisor, pooled + c);
}

// Tasks: first block of channels, level, image (the image fastest) for contiguous levels, then
// object, level (the level fastest) for channels-last levels.
template <class T>
void pool(const PoolProblem& problem, const Objects& objects, ParallelFor parallel) {
  const int64_t levels = problem.levels.count, per_block = levels * problem.batch;
  const int64_t plane_tasks =
      any_level(problem.levels, false) ? divide_up(problem.channels, kLanes) * per_block : 0;
  const int64_t cell_tasks = any_level(problem.levels, true) ? objects.count * levels : 0;
  run_tasks(parallel, plane_tasks + cell_tasks, Order::ascending, [&] {
    return [&, planes = PlanePooler<T>(problem, objects)](int64_t begin, int64_t end) mutable {
      for (int64_t task = begin; task < end; ++task) {
        if (task < plane_tasks) {
          const int level = static_cast<int>(task % per_block / problem.batch);
          if (!problem.levels.level[level].channels_last)
            planes.pool(level, task % problem.batch, task / per_block * kLanes);
        } else {
          const int level = static_cast<int>((task - plane_tasks) % levels);
          const int64_t k = (task - plane_tasks) / levels;
          if (problem.levels.level[level].channels_last)
            pool_channels_last<T>(problem, objects, level, k, objects.image[k]);
        }
      }
    };
  });
}

}  // namespace
}  // namespace sssd::boxes_cpu::SSSD_ISA
