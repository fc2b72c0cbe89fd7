// Paint on the CPU. Along a row of cells the set of covering objects changes only where a span
// starts or ends. Between two such columns, in a *segment*, all cells are equal: the sum of each
// segment is taken once, then written to its cells, and rows with the same objects are copies of
// one another.
#pragma once

#include <cstring>

#include "kernels/boxes/cpu.h"
#include "kernels/boxes/paint_bands.h"
#include "kernels/boxes/simd.h"
#include "kernels/boxes/stream.h"
#include "kernels/boxes/work_cpu.h"

namespace sssd::boxes_cpu::SSSD_ISA {
namespace {

template <class T>
class Painter {
  using A = accumulator_t<T>;

 public:
  Painter(const PaintProblem& problem, const Objects& objects)
      : problem_(problem),
        objects_(objects),
        image_bands_(problem.levels, objects, problem.batch),
        row_bands_(kTileRows, most_objects(objects, problem.batch), widest(problem.levels)),
        width_(padded(widest(problem.levels)) + kLanes),
        sums_(width_ * padded(problem.channels)),
        table_(kTileRows * width_ * kLanes),
        tile_(kTileRows * width_),
        cell_(padded(problem.channels)) {}

  // Sixteen planes of all contiguous levels, a piece of memory each, so that no two threads bring
  // in the same page of a new map.
  void paint_planes(int64_t image, int64_t channel) {
    image_bands_.find(image);
    const int64_t left = problem_.channels - channel;
    const int64_t block = left < kLanes ? left : kLanes;
    for (int l = 0; l < problem_.levels.count; ++l) {
      const BoxLevel& map = problem_.levels.level[l];
      if (map.channels_last || map.size.width == 0) continue;
      stream_ = streams(map);
      T* to = static_cast<T*>(map.map) + (image * problem_.channels + channel) * map.cells();
      const Band* band = image_bands_.begin(l);
      while (band < image_bands_.end(l)) {
        const int32_t top = band->top, bottom = tile_bottom(top, map.size.height);
        const Band* first = band;
        while (band < image_bands_.end(l) && band->top < bottom) ++band;
        paint_tile(first, band, l, channel, block, to + int64_t{top} * map.size.width);
      }
    }
  }

  // Some rows of a channels-last level.
  void paint_rows(const RowTiles::Tile& tile) {
    const BoxLevel& map = problem_.levels.level[tile.level];
    if (!map.channels_last || map.size.width == 0) return;
    stream_ = streams(map);
    row_bands_.clear();
    row_bands_.add(objects_.spans(tile.level), objects_.start[tile.image],
                   objects_.start[tile.image + 1], tile.top, tile.bottom, map.size.width);
    T* image = static_cast<T*>(map.map) + tile.image * problem_.channels * map.cells();
    for (const Band& band : row_bands_) paint_cells(band, tile.level, image, map.size.width);
  }

 private:
  bool streams(const BoxLevel& map) const {
    return static_cast<int64_t>(sizeof(T)) * problem_.batch * problem_.channels * map.cells() >=
           kStreamBytes;
  }
  void write(T* to, const T* from, int64_t count) {
    if (stream_) {
      stream_copy(to, from, sizeof(T) * count);
    } else {
      std::memcpy(to, from, sizeof(T) * count);
    }
  }

  // sums_ (segments, padded(count)): the values of the covering objects, added in their order.
  void sum_segments(const Band& band, int level, int64_t channel, int64_t count) {
    const int64_t pitch = padded(count);
    const CellSpan* spans = objects_.spans(level);
    const T* values = static_cast<const T*>(problem_.values) + level * problem_.value_level_stride;
    std::memset(sums_.get(), 0, sizeof(A) * band.segments * pitch);
    for (int64_t k = 0; k < band.coverings; ++k) {
      const Covering covering = band.covering[k];
      const A divisor = problem_.mean ? static_cast<A>(spans[covering.object].cells()) : A(1);
      const T* value = values + objects_.row[covering.object] * problem_.channels + channel;
      for (int64_t c = 0; c < count; c += kLanes) {
        Sixteen<A> add, sum;
        if (count - c >= kLanes) {
          load(value + c, add);
        } else {
          load_some(value + c, count - c, add);
        }
        add /= divisor;
        A* to = sums_.get() + covering.first * pitch + c;
        for (int32_t s = covering.first; s < covering.end; ++s, to += pitch) {
          load(to, sum);
          sum += add;
          store(to, sum);
        }
      }
    }
  }

  // The rows of bands first .. last - 1 in `block` planes, one plane after the other.
  void paint_tile(const Band* first, const Band* last, int level, int64_t channel, int64_t block,
                  T* to) {
    const BoxLevel& map = problem_.levels.level[level];
    const int64_t count = int64_t{last[-1].bottom - first->top} * map.size.width;
    bool any = false;
    for (const Band* band = first; band < last; ++band) any = any || band->coverings > 0;
    if (!any) {
      std::memset(tile_.get(), 0, sizeof(T) * count);
      for (int64_t k = 0; k < block; ++k) write(to + k * map.cells(), tile_.get(), count);
      return;
    }
    A* table = table_.get();
    for (const Band* band = first; band < last; ++band) {
      sum_segments(*band, level, channel, block);
      tabulate(*band, table);
      table += kLanes * table_width(*band);
    }
    for (int64_t k = 0; k < block; ++k) {
      table = table_.get();
      T* rows = tile_.get();
      for (const Band* band = first; band < last; ++band) {
        fill_rows(*band, map.size.width, table + k * table_width(*band), rows);
        rows += (band->bottom - band->top) * int64_t{map.size.width};
        table += kLanes * table_width(*band);
      }
      write(to + k * map.cells(), tile_.get(), count);
    }
  }

  // Room for sixteen values from any segment on.
  static int64_t table_width(const Band& band) { return padded(band.segments) + kLanes; }

  // table (16 planes, table_width): the sums with the segments innermost.
  void tabulate(const Band& band, A* table) {
    const int64_t width = table_width(band);
    for (int64_t s = 0; s < band.segments; s += kLanes)
      transpose(sums_.get() + s * kLanes, kLanes, table + s, width);
  }

  // A band's rows of one channel. Sixteen cells lie in at most sixteen segments that follow one
  // another: they are looked up at once. What reaches beyond a row is overwritten by the next.
  void fill_rows(const Band& band, int64_t width, const A* sums, T* rows) {
    for (int64_t j = 0; j < width; j += kLanes) {
      Sixteen<A> value;
      look_up(sums + band.group_segment[j / kLanes], band.within + j, value);
      store(rows + j, value);
    }
    for (int32_t i = 1; i < band.bottom - band.top; ++i)
      std::memcpy(rows + i * width, rows, sizeof(T) * width);
  }

  // The cells of a band one after the other, all channels of each.
  void paint_cells(const Band& band, int level, T* image, int64_t width) {
    const int64_t channels = problem_.channels, pitch = padded(channels);
    sum_segments(band, level, 0, channels);
    for (int32_t i = band.top; i < band.bottom; ++i) {
      T* to = image + i * width * channels;
      for (int32_t s = 0; s < band.segments; ++s) {
        Sixteen<A> sum;
        for (int64_t c = 0; c < pitch; c += kLanes) {
          load(sums_.get() + s * pitch + c, sum);
          store(cell_.get() + c, sum);
        }
        for (int32_t j = band.start[s]; j < band.start[s + 1]; ++j, to += channels)
          write(to, cell_.get(), channels);
      }
    }
  }

  const PaintProblem& problem_;
  const Objects& objects_;
  ImageBands image_bands_;
  Bands row_bands_;
  int64_t width_;
  Scratch<A> sums_;   // of the segments of a band
  Scratch<A> table_;  // the same of all bands of a tile, for sixteen channels
  Scratch<T> tile_;   // the tile's rows of one channel, and room to store beyond
  Scratch<T> cell_;   // all channels of one cell
  bool stream_ = false;
};

// Tasks: image, then block of planes, for contiguous levels; then tiles of rows for channels-last
// levels.
template <class T>
void paint(const PaintProblem& problem, const Objects& objects, ParallelFor parallel) {
  const int64_t blocks = divide_up(problem.channels, kLanes);
  const int64_t plane_tasks = any_level(problem.levels, false) ? problem.batch * blocks : 0;
  const RowTiles tiles(problem.levels, problem.batch);
  const int64_t row_tasks = any_level(problem.levels, true) ? tiles.total : 0;
  run_tasks(parallel, plane_tasks + row_tasks, Order::ascending, [&] {
    return [&, painter = Painter<T>(problem, objects)](int64_t begin, int64_t end) mutable {
      for (int64_t task = begin; task < end; ++task) {
        if (task < plane_tasks)
          painter.paint_planes(task / blocks, task % blocks * kLanes);
        else
          painter.paint_rows(tiles.at(problem.levels, task - plane_tasks));
      }
      finish_stream();
    };
  });
}

}  // namespace
}  // namespace sssd::boxes_cpu::SSSD_ISA
