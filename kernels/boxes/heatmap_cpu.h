// Label heatmaps on the CPU. Every profile is made of one factor a row and one a column, so that an
// object costs (height + width) exponentials and height x width products.
#pragma once

#include <cmath>
#include <cstring>

#include "kernels/boxes/cpu.h"
#include "kernels/boxes/simd.h"
#include "kernels/boxes/work_cpu.h"
#include "kernels/common/oldest_glibc.h"

namespace sssd::boxes_cpu::SSSD_ISA {
namespace {

template <class A>
A along(Profile profile, double distance, double scale) {
  switch (profile) {
    case Profile::box:
      return 0;
    case Profile::pyramid:
      return static_cast<A>(std::fabs(distance) * scale);
    default:
      return std::exp(static_cast<A>(-distance * distance * scale));
  }
}

template <Combine combine, class A>
void combine_row(A* row, int32_t begin, int32_t end, Profile profile, A down, const A* right,
                 A strength) {
  const auto put = [row](int32_t j, A value) {
    if constexpr (combine == Combine::max) {
      row[j] = value > row[j] ? value : row[j];
    } else {
      row[j] += value;
    }
  };
  switch (profile) {
    case Profile::box:
      for (int32_t j = begin; j < end; ++j) put(j, strength);
      break;
    case Profile::pyramid:
      for (int32_t j = begin; j < end; ++j) {
        const A far = right[j] > down ? right[j] : down;
        put(j, strength * (1 - far));
      }
      break;
    default:
      for (int32_t j = begin; j < end; ++j) put(j, strength * down * right[j]);
  }
}

// Draws objects begin .. end - 1 into `rows`, which stands for the rows top .. bottom - 1 of a map.
template <class A>
void draw(const HeatmapProblem& problem, const Objects& objects, int level, int64_t begin,
          int64_t end, int32_t top, int32_t bottom, A* columns, A* rows) {
  const int64_t width = problem.levels.level[level].size.width;
  for (int64_t k = begin; k < end; ++k) {
    const Stamp& stamp = objects.stamps(level)[k];
    const CellSpan window = stamp.window;
    const int32_t from = top > window.top ? top : window.top;
    const int32_t to = bottom < window.bottom ? bottom : window.bottom;
    if (from >= to) continue;
    const double per_row = 1 / stamp.row_scale, per_column = 1 / stamp.column_scale;
    const A strength = problem.strength == nullptr ? 1 : problem.strength[objects.row[k]];
    for (int32_t j = window.left; j < window.right; ++j)
      columns[j] = along<A>(problem.profile, j - stamp.column, per_column);
    for (int32_t i = from; i < to; ++i) {
      const A down = along<A>(problem.profile, i - stamp.row, per_row);
      A* row = rows + (i - top) * width;
      if (problem.combine == Combine::max) {
        combine_row<Combine::max>(row, window.left, window.right, problem.profile, down, columns,
                                  strength);
      } else {
        combine_row<Combine::sum>(row, window.left, window.right, problem.profile, down, columns,
                                  strength);
      }
    }
  }
}

template <class T>
void convert(const accumulator_t<T>* from, int64_t count, T* to) {
  Sixteen<accumulator_t<T>> value;
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes) {
    load(from + j, value);
    store(to + j, value);
  }
  for (; j < count; ++j) to[j] = from_accumulator<T>(from[j]);
}

// One plane of one image and class: whole where it can be drawn in place, else some rows at a time.
template <class T>
void heatmap_plane(const HeatmapProblem& problem, const Objects& objects, int level, int64_t group,
                   accumulator_t<T>* columns, accumulator_t<T>* rows) {
  using A = accumulator_t<T>;
  const BoxLevel& map = problem.levels.level[level];
  const int64_t begin = objects.start[group], end = objects.start[group + 1];
  T* plane = static_cast<T*>(map.map) + group * map.cells();
  if constexpr (sizeof(T) == sizeof(A)) {
    std::memset(plane, 0, sizeof(T) * map.cells());
    draw<A>(problem, objects, level, begin, end, 0, map.size.height, columns, plane);
  } else if (begin == end) {
    std::memset(plane, 0, sizeof(T) * map.cells());
  } else {
    for (int32_t top = 0; top < map.size.height; top += kTileRows) {
      const int32_t bottom = tile_bottom(top, map.size.height);
      const int64_t count = int64_t{bottom - top} * map.size.width;
      std::memset(rows, 0, sizeof(A) * count);
      draw<A>(problem, objects, level, begin, end, top, bottom, columns, rows);
      convert<T>(rows, count, plane + int64_t{top} * map.size.width);
    }
  }
}

// Tasks: image and class, then level, the level fastest.
template <class T>
void heatmap(const HeatmapProblem& problem, const Objects& objects, ParallelFor parallel) {
  using A = accumulator_t<T>;
  const int64_t levels = problem.levels.count, width = widest(problem.levels);
  const int64_t tasks = problem.batch * problem.classes * levels;
  run_tasks(parallel, tasks, Order::ascending, [&] {
    return [&, columns = Scratch<A>(width), rows = Scratch<A>(kTileRows * width)](
               int64_t begin, int64_t end) mutable {
      for (int64_t task = begin; task < end; ++task)
        heatmap_plane<T>(problem, objects, static_cast<int>(task % levels), task / levels,
                         columns.get(), rows.get());
    };
  });
}

}  // namespace
}  // namespace sssd::boxes_cpu::SSSD_ISA
