// Paint on the CPU. Along a row of cells the set of covering objects changes only where a span
// starts or ends. Between two such columns, in a *segment*, all cells are equal: the sum of each
// segment is taken once, then written to its cells, and rows with the same objects are copies of
// one another.
#pragma once

#include <cstring>

#include "kernels/boxes/cpu.h"
#include "kernels/boxes/scratch.h"
#include "kernels/boxes/simd.h"
#include "kernels/boxes/stream.h"
#include "kernels/boxes/units.h"

namespace sssd::boxes_cpu {
namespace {

// An object that covers a band, and the segments it covers there.
struct Covering {
  int64_t object;
  int32_t first, end;
};

// Rows that are covered by the same objects, cut into segments.
struct Band {
  int32_t top, bottom, segments;
  int64_t coverings;
  Covering* covering;  // in the order of the objects
  int32_t* start;      // (segments + 1) first column of each segment
};

// The bands of a tile.
class Bands {
 public:
  Bands(int64_t objects, int64_t width)
      : width_(width),
        covering_(kTileRows * objects),
        start_(kTileRows * (width + 1)),
        segment_at_(width + 1) {}

  // Spans begin .. end - 1 on rows top .. bottom - 1.
  void find(const CellSpan* spans, int64_t begin, int64_t end, int32_t top, int32_t bottom,
            int32_t width) {
    count = 0;
    any = false;
    Covering* covering = covering_.get();
    for (; top < bottom; ++count) {
      band[count] = next(spans, begin, end, top, bottom, width, covering,
                         start_.get() + count * (width_ + 1));
      any = any || band[count].coverings > 0;
      covering += band[count].coverings;
      top = band[count].bottom;
    }
  }

  Band band[kTileRows];
  int count = 0;
  bool any = false;

 private:
  // The band that starts at row `top`, cut at row `bottom`.
  Band next(const CellSpan* spans, int64_t begin, int64_t end, int32_t top, int32_t bottom,
            int32_t width, Covering* covering, int32_t* start) {
    Band band{top, bottom, 0, 0, covering, start};
    int32_t* segment_at = segment_at_.get();  // first marks the cuts, then counts them
    std::memset(segment_at, 0, sizeof(int32_t) * (width + 1));
    for (int64_t k = begin; k < end; ++k) {
      const CellSpan span = spans[k];
      if (span.in_row(top)) {
        covering[band.coverings++] = {k, 0, 0};
        segment_at[span.left] = segment_at[span.right] = 1;
        if (span.bottom < band.bottom) band.bottom = span.bottom;
      } else if (span.top > top && span.top < band.bottom) {
        band.bottom = span.top;
      }
    }
    segment_at[0] = 1;
    for (int32_t j = 0; j < width; ++j) {
      if (segment_at[j] != 0) start[band.segments++] = j;
      segment_at[j] = band.segments - 1;
    }
    start[band.segments] = width;
    segment_at[width] = band.segments;
    for (int64_t k = 0; k < band.coverings; ++k) {
      const CellSpan span = spans[covering[k].object];
      covering[k].first = segment_at[span.left];
      covering[k].end = segment_at[span.right];
    }
    return band;
  }

  int64_t width_;
  Scratch<Covering> covering_;
  Scratch<int32_t> start_, segment_at_;
};

template <class T>
class Painter {
  using A = accumulator_t<T>;

 public:
  Painter(const PaintProblem& problem, const Objects& objects)
      : problem_(problem),
        objects_(objects),
        width_(widest(problem.levels)),
        bands_(objects.count, width_),
        sums_(kTileRows * width_ * kLanes + width_ * padded(problem.channels)),
        tile_(kTileRows * width_ + kLanes),
        cell_(padded(problem.channels)) {}

  void paint(const RowTiles::Tile& tile) {
    const BoxLevel& map = problem_.levels.level[tile.level];
    const int64_t channels = problem_.channels;
    if (map.size.width == 0) return;
    bands_.find(objects_.spans(tile.level), objects_.start[tile.image],
                objects_.start[tile.image + 1], tile.top, tile.bottom, map.size.width);
    T* image = static_cast<T*>(map.map) + tile.image * channels * map.cells();
    const int64_t bytes = sizeof(T) * problem_.batch * channels * map.cells();
    stream_ = bytes >= kStreamBytes;
    if (map.channels_last) {
      paint_cells(tile, image, map.size.width);
    } else {
      paint_planes(tile, image, map.cells(), map.size.width);
    }
  }

 private:
  static int64_t padded(int64_t channels) { return divide_up(channels, kLanes) * kLanes; }

  void write(T* to, const T* from, int64_t count) {
    if (stream_) {
      stream_copy(to, from, sizeof(T) * count);
    } else {
      std::memcpy(to, from, sizeof(T) * count);
    }
  }

  // sums (segments, padded(count)): the values of the covering objects, added in their order.
  void sum_segments(const Band& band, int level, int64_t channel, int64_t count, A* sums) {
    const int64_t pitch = padded(count);
    const CellSpan* spans = objects_.spans(level);
    const T* values = static_cast<const T*>(problem_.values) + level * problem_.value_level_stride;
    std::memset(sums, 0, sizeof(A) * band.segments * pitch);
    for (int64_t k = 0; k < band.coverings; ++k) {
      const Covering covering = band.covering[k];
      const A divisor = problem_.mean ? static_cast<A>(spans[covering.object].cells()) : A(1);
      const T* value = values + objects_.row[covering.object] * problem_.channels + channel;
      for (int64_t c = 0; c < count; c += kLanes) {
        lanes_t<A> add, sum;
        if (count - c >= kLanes) {
          load(value + c, add);
        } else {
          load_some(value + c, count - c, add);
        }
        add /= divisor;
        for (int32_t s = covering.first; s < covering.end; ++s) {
          load(sums + s * pitch + c, sum);
          sum += add;
          store(sums + s * pitch + c, sum);
        }
      }
    }
  }

  // Contiguous maps: the tile's rows of one channel after the other.
  void paint_planes(const RowTiles::Tile& tile, T* image, int64_t cells, int64_t width) {
    const int64_t channels = problem_.channels, count = (tile.bottom - tile.top) * width;
    T* to = image + tile.top * width;
    if (!bands_.any) {
      std::memset(tile_.get(), 0, sizeof(T) * count);
      for (int64_t c = 0; c < channels; ++c) write(to + c * cells, tile_.get(), count);
      return;
    }
    for (int64_t c = 0; c < channels; c += kLanes) {
      const int64_t block = channels - c < kLanes ? channels - c : kLanes;
      A* sums = sums_.get();
      for (int b = 0; b < bands_.count; ++b, sums += width * kLanes)
        sum_segments(bands_.band[b], tile.level, c, block, sums);
      for (int64_t k = 0; k < block; ++k) {
        sums = sums_.get() + k;
        for (int b = 0; b < bands_.count; ++b, sums += width * kLanes)
          fill_rows(bands_.band[b], tile.top, width, sums);
        write(to + (c + k) * cells, tile_.get(), count);
      }
    }
  }

  // A band's rows of one channel in `tile_`. Sixteen equal cells are stored at once from the start
  // of each segment, left to right: what reaches beyond a segment is overwritten by the next.
  void fill_rows(const Band& band, int32_t top, int64_t width, const A* sums) {
    T* first = tile_.get() + (band.top - top) * width;
    for (int32_t s = 0; s < band.segments; ++s) {
      T equal[kLanes];
      store(equal, lanes_t<A>{} + sums[s * kLanes]);
      for (int32_t j = band.start[s]; j < band.start[s + 1]; j += kLanes)
        std::memcpy(first + j, equal, sizeof(equal));
    }
    for (int32_t i = band.top + 1; i < band.bottom; ++i)
      std::memcpy(first + (i - band.top) * width, first, sizeof(T) * width);
  }

  // Channels-last maps: the tile's cells one after the other, all channels of each.
  void paint_cells(const RowTiles::Tile& tile, T* image, int64_t width) {
    const int64_t channels = problem_.channels, pitch = padded(channels);
    for (int b = 0; b < bands_.count; ++b) {
      const Band& band = bands_.band[b];
      sum_segments(band, tile.level, 0, channels, sums_.get());
      for (int32_t i = band.top; i < band.bottom; ++i) {
        T* to = image + i * width * channels;
        for (int32_t s = 0; s < band.segments; ++s) {
          lanes_t<A> sum;
          for (int64_t c = 0; c < pitch; c += kLanes) {
            load(sums_.get() + s * pitch + c, sum);
            store(cell_.get() + c, sum);
          }
          for (int32_t j = band.start[s]; j < band.start[s + 1]; ++j, to += channels)
            write(to, cell_.get(), channels);
        }
      }
    }
  }

  const PaintProblem& problem_;
  const Objects& objects_;
  int64_t width_;
  Bands bands_;
  Scratch<A> sums_;  // of the segments of all bands for sixteen channels, or of one band for all
  Scratch<T> tile_;  // the tile's rows of one channel, and room to store beyond
  Scratch<T> cell_;  // all channels of one cell
  bool stream_ = false;
};

template <class T>
void paint_run(const PaintProblem& problem, const Objects& objects, int64_t begin, int64_t end) {
  const RowTiles tiles(problem.levels, problem.batch);
  Painter<T> painter(problem, objects);
  for (int64_t unit = begin; unit < end; ++unit) painter.paint(tiles.at(problem.levels, unit));
  finish_stream();
}

}  // namespace
}  // namespace sssd::boxes_cpu
