// Paint on the CPU. Along a row of cells the set of covering objects changes only where a span
// starts or ends. Between two such columns, in a *segment*, all cells are equal: the sum of each
// segment is taken once, then written to its cells, and rows with the same objects are copies of
// one another.
#pragma once

#include <cstring>

#include "kernels/boxes/cpu.h"
#include "kernels/boxes/paint_bands.h"
#include "kernels/boxes/scratch.h"
#include "kernels/boxes/simd.h"
#include "kernels/boxes/stream.h"
#include "kernels/boxes/units.h"

namespace sssd::boxes_cpu {
namespace {

template <class T>
class Painter {
  using A = accumulator_t<T>;

 public:
  Painter(const PaintProblem& problem, const Objects& objects)
      : problem_(problem),
        objects_(objects),
        width_(widest(problem.levels)),
        bands_(rows(problem), most_objects(problem, objects), width_),
        tiles_(rows(problem)),
        sums_(kTileRows * width_ * kLanes + width_ * padded(problem.channels)),
        tile_(kTileRows * width_ + kLanes),
        cell_(padded(problem.channels)) {}

  // Sixteen planes of all contiguous levels, a piece of memory each, so that no two threads bring
  // in the same page of a new map.
  void paint_planes(int64_t image, int64_t channel) {
    if (image != image_) find_bands(image);
    const int64_t left = problem_.channels - channel;
    const int64_t block = left < kPaintPlanes ? left : kPaintPlanes;
    const TileBands* tile = tiles_.get();
    for (int l = 0; l < problem_.levels.count; ++l) {
      const BoxLevel& map = problem_.levels.level[l];
      if (skipped(map, false)) continue;
      stream_ = streams(map);
      const int64_t width = map.size.width;
      T* to = static_cast<T*>(map.map) + (image * problem_.channels + channel) * map.cells();
      for (int32_t top = 0; top < map.size.height; top += kTileRows, to += kTileRows * width)
        paint_tile(*tile++, l, channel, block, top, bottom_of(top, map), width, to, map.cells());
    }
  }

  // Some rows of a channels-last level.
  void paint_rows(const RowTiles::Tile& tile) {
    const BoxLevel& map = problem_.levels.level[tile.level];
    if (skipped(map, true)) return;
    stream_ = streams(map);
    bands_.clear();
    const TileBands bands =
        bands_.add(objects_.spans(tile.level), objects_.start[tile.image],
                   objects_.start[tile.image + 1], tile.top, tile.bottom, map.size.width);
    T* image = static_cast<T*>(map.map) + tile.image * problem_.channels * map.cells();
    paint_cells(bands, tile.level, image, map.size.width);
  }

 private:
  static int64_t padded(int64_t channels) { return divide_up(channels, kLanes) * kLanes; }
  static int64_t rows(const PaintProblem& problem) {
    int64_t total = kTileRows;
    for (int l = 0; l < problem.levels.count; ++l) total += problem.levels.level[l].size.height;
    return total;
  }
  static int64_t most_objects(const PaintProblem& problem, const Objects& objects) {
    int64_t most = 0;
    for (int64_t b = 0; b < problem.batch; ++b) {
      const int64_t here = objects.start[b + 1] - objects.start[b];
      most = here > most ? here : most;
    }
    return most;
  }
  static bool skipped(const BoxLevel& map, bool channels_last) {
    return map.channels_last != channels_last || map.size.width == 0;
  }
  static int32_t bottom_of(int32_t top, const BoxLevel& map) {
    return top + kTileRows < map.size.height ? top + kTileRows : map.size.height;
  }
  bool streams(const BoxLevel& map) const {
    return static_cast<int64_t>(sizeof(T)) * problem_.batch * problem_.channels * map.cells() >=
           kStreamBytes;
  }

  // The bands of all contiguous levels of an image: they serve all its planes.
  void find_bands(int64_t image) {
    image_ = image;
    bands_.clear();
    TileBands* tile = tiles_.get();
    for (int l = 0; l < problem_.levels.count; ++l) {
      const BoxLevel& map = problem_.levels.level[l];
      if (skipped(map, false)) continue;
      for (int32_t top = 0; top < map.size.height; top += kTileRows)
        *tile++ = bands_.add(objects_.spans(l), objects_.start[image], objects_.start[image + 1],
                             top, bottom_of(top, map), map.size.width);
    }
  }

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

  // Rows top .. bottom - 1 of `block` planes, one after the other.
  void paint_tile(const TileBands& bands, int level, int64_t channel, int64_t block, int32_t top,
                  int32_t bottom, int64_t width, T* to, int64_t cells) {
    const int64_t count = (bottom - top) * width;
    if (!bands.any) {
      std::memset(tile_.get(), 0, sizeof(T) * count);
      for (int64_t k = 0; k < block; ++k) write(to + k * cells, tile_.get(), count);
      return;
    }
    A* sums = sums_.get();
    for (int64_t b = 0; b < bands.count; ++b, sums += width * kLanes)
      sum_segments(bands.band[b], level, channel, block, sums);
    for (int64_t k = 0; k < block; ++k) {
      sums = sums_.get() + k;
      for (int64_t b = 0; b < bands.count; ++b, sums += width * kLanes)
        fill_rows(bands.band[b], top, width, sums);
      write(to + k * cells, tile_.get(), count);
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

  // The cells of some bands one after the other, all channels of each.
  void paint_cells(const TileBands& bands, int level, T* image, int64_t width) {
    const int64_t channels = problem_.channels, pitch = padded(channels);
    for (int64_t b = 0; b < bands.count; ++b) {
      const Band& band = bands.band[b];
      sum_segments(band, level, 0, channels, sums_.get());
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
  Scratch<TileBands> tiles_;  // of all contiguous levels of image `image_`
  int64_t image_ = -1;
  Scratch<A> sums_;  // of the segments of all bands for sixteen channels, or of one band for all
  Scratch<T> tile_;  // the tile's rows of one channel, and room to store beyond
  Scratch<T> cell_;  // all channels of one cell
  bool stream_ = false;
};

// Units: image, then block of planes, for contiguous levels; then tiles of rows for channels-last
// levels.
template <class T>
void paint_run(const PaintProblem& problem, const Objects& objects, int64_t begin, int64_t end) {
  const int64_t plane_units = paint_plane_units(problem);
  const int64_t blocks = divide_up(problem.channels, kPaintPlanes);
  const RowTiles tiles(problem.levels, problem.batch);
  Painter<T> painter(problem, objects);
  for (int64_t unit = begin; unit < end; ++unit) {
    if (unit < plane_units) {
      painter.paint_planes(unit / blocks, unit % blocks * kPaintPlanes);
    } else {
      painter.paint_rows(tiles.at(problem.levels, unit - plane_units));
    }
  }
  finish_stream();
}

}  // namespace
}  // namespace sssd::boxes_cpu
