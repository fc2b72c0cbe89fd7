// Rows of cells that the same objects cover, and where along them that set changes.
#pragma once

#include <cstring>

#include "kernels/boxes/geometry.h"
#include "kernels/boxes/scratch.h"

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

// The bands of a tile, where they are in `Bands`.
struct TileBands {
  const Band* band;
  int64_t count;
  bool any;  // some of them covered
};

// Bands of at most so many rows.
class Bands {
 public:
  Bands(int64_t rows, int64_t objects, int64_t width)
      : width_(width),
        band_(rows),
        covering_(rows * objects),
        start_(rows * (width + 1)),
        segment_at_(width + 1) {}

  void clear() { count_ = coverings_ = 0; }

  // Adds those of spans begin .. end - 1 on rows top .. bottom - 1.
  TileBands add(const CellSpan* spans, int64_t begin, int64_t end, int32_t top, int32_t bottom,
                int32_t width) {
    TileBands tile{band_.get() + count_, 0, false};
    for (; top < bottom; ++tile.count) {
      Band& band = band_[count_];
      band = next(spans, begin, end, top, bottom, width, covering_.get() + coverings_,
                  start_.get() + count_ * (width_ + 1));
      tile.any = tile.any || band.coverings > 0;
      coverings_ += band.coverings;
      ++count_;
      top = band.bottom;
    }
    return tile;
  }

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

  int64_t width_, count_ = 0, coverings_ = 0;
  Scratch<Band> band_;
  Scratch<Covering> covering_;
  Scratch<int32_t> start_, segment_at_;
};

}  // namespace
}  // namespace sssd::boxes_cpu
