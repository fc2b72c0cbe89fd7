// Rows of cells that the same objects cover, and where along them that set changes: what is
// painted.
#pragma once

#include <cstring>

#include "kernels/boxes/cpu.h"
#include "kernels/boxes/simd.h"
#include "kernels/boxes/work_cpu.h"

namespace sssd::boxes_cpu::SSSD_ISA {
namespace {

// An object that covers a band, and the segments it covers there.
struct Covering {
  int64_t object;
  int32_t first, end;
};

// Rows that are covered by the same objects. Between two columns where that set changes lies a
// *segment*; sixteen columns are a *group*.
struct Band {
  int32_t top, bottom, segments;
  int64_t coverings;
  Covering* covering;      // in the order of the objects
  int32_t* start;          // (segments + 1) first column of each segment
  int32_t* group_segment;  // segment of the first column of every group
  uint8_t* within;         // (columns) segments from there to the column's own, at most 15
};

// Bands of at most so many rows and columns.
class Bands {
 public:
  Bands(int64_t rows, int64_t objects, int64_t width)
      : width_(padded(width) + kLanes),
        band_(rows),
        covering_(rows * objects),
        start_(rows * width_),
        group_segment_(rows * width_ / kLanes),
        within_(rows * width_),
        segment_at_(width_) {}

  const Band* begin() { return band_.get(); }
  const Band* end() { return band_.get() + count_; }
  void clear() { count_ = coverings_ = 0; }

  // Adds those of spans begin .. end - 1 on rows top .. bottom - 1.
  void add(const CellSpan* spans, int64_t begin, int64_t end, int32_t top, int32_t bottom,
           int32_t width) {
    while (top < bottom) {
      Band& band = band_[count_];
      const int64_t at = count_ * width_;
      band = {top,
              bottom,
              0,
              0,
              covering_.get() + coverings_,
              start_.get() + at,
              group_segment_.get() + at / kLanes,
              within_.get() + at};
      find(band, spans, begin, end, width);
      coverings_ += band.coverings;
      ++count_;
      top = band.bottom;
    }
  }

 private:
  // The band that starts at row `top`, cut at row `bottom` or before.
  void find(Band& band, const CellSpan* spans, int64_t begin, int64_t end, int32_t width) {
    int32_t* segment_at = segment_at_.get();  // first marks the cuts, then counts them
    std::memset(segment_at, 0, sizeof(int32_t) * (width + 1));
    for (int64_t k = begin; k < end; ++k) {
      const CellSpan span = spans[k];
      if (span.in_row(band.top)) {
        band.covering[band.coverings++] = {k, 0, 0};
        segment_at[span.left] = segment_at[span.right] = 1;
        if (span.bottom < band.bottom) band.bottom = span.bottom;
      } else if (span.top > band.top && span.top < band.bottom) {
        band.bottom = span.top;
      }
    }
    segment_at[0] = 1;
    for (int32_t j = 0; j < width; ++j) {
      if (segment_at[j] != 0) band.start[band.segments++] = j;
      segment_at[j] = band.segments - 1;
      if (j % kLanes == 0) band.group_segment[j / kLanes] = segment_at[j];
      band.within[j] = static_cast<uint8_t>(segment_at[j] - segment_at[j / kLanes * kLanes]);
    }
    std::memset(band.within + width, band.within[width - 1], padded(width) - width);
    band.start[band.segments] = width;
    segment_at[width] = band.segments;
    for (int64_t k = 0; k < band.coverings; ++k) {
      Covering& covering = band.covering[k];
      const CellSpan span = spans[covering.object];
      covering.first = segment_at[span.left];
      covering.end = segment_at[span.right];
    }
  }

  int64_t width_, count_ = 0, coverings_ = 0;
  Scratch<Band> band_;
  Scratch<Covering> covering_;
  Scratch<int32_t> start_;
  Scratch<int32_t> group_segment_;
  Scratch<uint8_t> within_;
  Scratch<int32_t> segment_at_;
};

inline int64_t most_objects(const Objects& objects, int64_t batch) {  // in one image
  int64_t most = 0;
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t here = objects.start[b + 1] - objects.start[b];
    most = here > most ? here : most;
  }
  return most;
}

// The bands of all contiguous levels of one image at a time, cut every kTileRows rows: they serve
// all its planes.
class ImageBands {
 public:
  ImageBands(const BoxLevels& levels, const Objects& objects, int64_t batch)
      : levels_(levels),
        objects_(objects),
        bands_(rows(levels), most_objects(objects, batch), widest(levels)) {}

  void find(int64_t image) {
    if (image == image_) return;
    image_ = image;
    bands_.clear();
    for (int l = 0; l < levels_.count; ++l) {
      first_[l] = bands_.end() - bands_.begin();
      const BoxLevel& map = levels_.level[l];
      if (map.channels_last || map.size.width == 0) continue;
      for (int32_t top = 0; top < map.size.height; top += kTileRows)
        bands_.add(objects_.spans(l), objects_.start[image], objects_.start[image + 1], top,
                   tile_bottom(top, map.size.height), map.size.width);
    }
    first_[levels_.count] = bands_.end() - bands_.begin();
  }
  const Band* begin(int level) { return bands_.begin() + first_[level]; }
  const Band* end(int level) { return bands_.begin() + first_[level + 1]; }

 private:
  static int64_t rows(const BoxLevels& levels) {
    int64_t total = 0;
    for (int l = 0; l < levels.count; ++l) total += levels.level[l].size.height;
    return total;
  }

  const BoxLevels& levels_;
  const Objects& objects_;
  Bands bands_;
  int64_t image_ = -1, first_[kMaxLevels + 1];
};

}  // namespace
}  // namespace sssd::boxes_cpu::SSSD_ISA
