// How a level is cut for the CPU: into units (a row, or a strip of neighbouring rows), a long unit
// into pieces, and every piece into runs of vectors.
#pragma once

#include "kernels/common/lanes_io.h"

namespace sssd::divergence::SSSD_ISA {

using namespace sssd::SSSD_ISA;

constexpr int kBlock = 8;   // vectors in flight
constexpr int kGroups = 4;  // vectors side by side in a strip

// Vectors at offset, offset + step, ...; a strip's last group and a row's last vector hold fewer
// elements than lanes.
struct Run {
  int64_t offset, step, count;  // in elements
  int valid, valid_last;
};

template <class S>
struct Plan {
  static constexpr int kLanes = Lanes<S>::kCount;
  static constexpr int64_t kStrip = kGroups * kLanes;

  bool strided;          // lanes are neighbouring rows; else neighbouring elements of one row
  bool split;            // pieces of a unit are tasks of their own
  int64_t strips;        // units side by side in `inner`
  int64_t units;         // of the level
  int64_t piece_length;  // elements of a row
  int64_t pieces_a_segment;
  int64_t pieces;  // of a unit
  int64_t units_a_task;
  int64_t tasks;

  explicit Plan(const Level& level) {
    strided = level.inner > 1;
    strips = strided ? (level.inner + kStrip - 1) / kStrip : 1;
    units = level.outer * strips;
    piece_length = strided ? 1024 : 65536;  // bounds rounding: longer sums are added up in parts
    pieces_a_segment = (level.length + piece_length - 1) / piece_length;
    pieces = level.segments * pieces_a_segment;
    // Few long units leave processors idle: their pieces are shared out, in two sweeps.
    split = pieces > 1 && units < 128;
    const int64_t unit_size = level.row_length() * (strided ? kStrip : 1);
    units_a_task = unit_size >= 65536 || unit_size == 0 ? 1 : 65536 / unit_size;
    tasks = split ? units * pieces : (units + units_a_task - 1) / units_a_task;
    if (unit_size == 0) tasks = 0;
  }

  int groups() const { return strided ? kGroups : 1; }
  // Rows of a unit are neighbours; lane 0 of group 0 is this one.
  int64_t first_row(const Level& level, int64_t unit) const {
    return strided ? unit / strips * level.inner + unit % strips * kStrip : unit;
  }
  // Rows held by a group of a unit: a strip's last group may hold fewer than its lanes, or none.
  int rows(const Level& level, int64_t unit, int group) const {
    if (!strided) return 1;
    const int64_t left = level.inner - unit % strips * kStrip - group * kLanes;
    return left >= kLanes ? kLanes : left > 0 ? int(left) : 0;
  }
  Run run(const Level& level, int64_t unit, int64_t piece, int group) const {
    const int64_t segment = piece / pieces_a_segment;
    const int64_t begin = piece % pieces_a_segment * piece_length;
    const int64_t rest = level.length - begin;
    const int64_t length = rest < piece_length ? rest : piece_length;
    if (strided) {
      const int n = rows(level, unit, group);
      const int64_t lane0 = unit % strips * kStrip + group * kLanes;
      const int64_t offset = unit / strips * level.outer_stride + begin * level.inner + lane0;
      return {offset, level.inner, length, n, n};
    }
    const int64_t offset = unit * level.outer_stride + segment * level.segment_stride + begin;
    const int64_t count = (length + kLanes - 1) / kLanes;
    return {offset, kLanes, count, kLanes, int(length - (count - 1) * kLanes)};
  }
};

// A strip is read with long strides, which no processor foresees: while one group of rows is worked
// on, the next group's cache lines are fetched.
template <int N>
SSSD_INLINE void fetch_next_line(const char* source, int64_t step) {
  for (int i = 0; i < N; ++i) __builtin_prefetch(source + i * step + 64);
}

template <class S, int N>
SSSD_INLINE void load_vectors(const char* source, Dtype dtype, int64_t step, Lanes<S>* out) {
  if (dtype == Dtype::f32)
    for (int i = 0; i < N; ++i) out[i] = load<S>(source + i * step, Dtype::f32);
  else if (dtype == Dtype::bf16)
    for (int i = 0; i < N; ++i) out[i] = load<S>(source + i * step, Dtype::bf16);
  else if (dtype == Dtype::f16)
    for (int i = 0; i < N; ++i) out[i] = load<S>(source + i * step, Dtype::f16);
  else
    for (int i = 0; i < N; ++i) out[i] = load<S>(source + i * step, Dtype::f64);
}

template <class S, int N>
SSSD_INLINE void store_vectors(char* target, Dtype dtype, int64_t step, const Lanes<S>* in) {
  if (dtype == Dtype::f32)
    for (int i = 0; i < N; ++i) store(target + i * step, Dtype::f32, in[i]);
  else if (dtype == Dtype::bf16)
    for (int i = 0; i < N; ++i) store(target + i * step, Dtype::bf16, in[i]);
  else if (dtype == Dtype::f16)
    for (int i = 0; i < N; ++i) store(target + i * step, Dtype::f16, in[i]);
  else
    for (int i = 0; i < N; ++i) store(target + i * step, Dtype::f64, in[i]);
}

// One side of a level.
struct Side {
  const void* data;
  Dtype dtype;
};

// A compile-time count, so that a block of vectors stays in registers.
template <int N>
struct Count {
  static constexpr int value = N;
};

// body(Count<N>, vectors of side a, vectors of side b, index of the first vector, valid lanes),
// over the vectors of a run, kBlock at a time; lanes that hold no element hold the padding.
template <class S, bool kFetch = false, class Body>
SSSD_INLINE void for_blocks(const Run& run, Side a, Side b, Lanes<S> pad_a, Lanes<S> pad_b,
                            Body&& body) {
  constexpr int kLanes = Lanes<S>::kCount;
  const char* from_a = at(a.data, a.dtype, run.offset);
  const char* from_b = at(b.data, b.dtype, run.offset);
  const int64_t step_a = run.step * bytes_of(a.dtype), step_b = run.step * bytes_of(b.dtype);
  const int64_t full = run.valid < kLanes ? 0 : run.valid_last < kLanes ? run.count - 1 : run.count;
  int64_t i = 0;
  for (; i + kBlock <= full; i += kBlock) {
    Lanes<S> x[kBlock], y[kBlock];
    load_vectors<S, kBlock>(from_a + i * step_a, a.dtype, step_a, x);
    load_vectors<S, kBlock>(from_b + i * step_b, b.dtype, step_b, y);
    if (kFetch) {
      fetch_next_line<kBlock>(from_a + i * step_a, step_a);
      fetch_next_line<kBlock>(from_b + i * step_b, step_b);
    }
    body(Count<kBlock>(), x, y, i, kLanes);
  }
  for (; i < run.count; ++i) {
    const int valid = i + 1 == run.count ? run.valid_last : run.valid;
    Lanes<S> x[1], y[1];
    x[0] = load_first(from_a + i * step_a, a.dtype, valid, pad_a);
    y[0] = load_first(from_b + i * step_b, b.dtype, valid, pad_b);
    body(Count<1>(), x, y, i, valid);
  }
}

}  // namespace sssd::divergence::SSSD_ISA
