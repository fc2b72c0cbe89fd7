// How a level is cut for the CPU: into units (a row, or a strip of neighbouring rows), a long unit
// into pieces, and every piece into runs of vectors.
#pragma once

#include "kernels/common/lanes_io.h"
#include "kernels/divergence/divergence.h"

namespace sssd::divergence::SSSD_ISA {

using namespace sssd::SSSD_ISA;

constexpr int kBlock = 8;    // vectors in flight
constexpr int kGroups = 16;  // vectors side by side in a strip: memory likes long stretches

// A piece of a unit as vectors: `groups` side by side, `count` times, `step` elements apart. A
// strip's last group and a row's last vector hold fewer elements than lanes.
struct Run {
  int64_t offset, step, count;
  int groups;
  int valid_last_group, valid_last;
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
  int64_t pieces;         // of a unit
  int64_t rows_together;  // contiguous: whose ends are worked on side by side, a lane each
  int64_t units_a_task;
  int64_t tasks;

  explicit Plan(const Level& level) {
    strided = level.inner > 1;
    strips = strided ? (level.inner + kStrip - 1) / kStrip : 1;
    units = level.outer * strips;
    piece_length = strided ? 512 : 65536;  // bounds rounding: longer sums are added up in parts
    pieces_a_segment = (level.length + piece_length - 1) / piece_length;
    pieces = level.segments * pieces_a_segment;
    // Few long units leave processors idle: their pieces are shared out, in two sweeps.
    const bool empty = level.rows() == 0 || level.row_length() == 0;
    split = pieces > 1 && units < 128 && !empty;
    const int64_t unit_size = level.row_length() * (strided ? kStrip : 1);
    rows_together = level.row_length() > 0 ? 32768 / level.row_length() : 1;  // they stay in cache
    if (rows_together > kLanes) rows_together = kLanes;
    if (rows_together < 1) rows_together = 1;
    units_a_task = unit_size >= 65536 || empty ? 1 : 65536 / unit_size;
    tasks = split ? units * pieces : (units + units_a_task - 1) / units_a_task;
    if (empty) tasks = 0;
  }

  // Rows of a unit are neighbours; lane 0 of group 0 is this one.
  int64_t first_row(const Level& level, int64_t unit) const {
    return strided ? unit / strips * level.inner + unit % strips * kStrip : unit;
  }
  int groups(const Level& level, int64_t unit) const {
    if (!strided) return 1;
    const int64_t left = level.inner - unit % strips * kStrip;
    return left >= kStrip ? kGroups : int((left + kLanes - 1) / kLanes);
  }
  // Rows held by a group of a unit.
  int rows(const Level& level, int64_t unit, int group) const {
    if (!strided) return 1;
    const int64_t left = level.inner - unit % strips * kStrip - group * kLanes;
    return left >= kLanes ? kLanes : int(left);
  }
  Run run(const Level& level, int64_t unit, int64_t piece) const {
    const int64_t segment = piece / pieces_a_segment;
    const int64_t begin = piece % pieces_a_segment * piece_length;
    const int64_t rest = level.length - begin;
    const int64_t length = rest < piece_length ? rest : piece_length;
    if (strided) {
      const int64_t lane0 = unit % strips * kStrip;
      const int64_t offset = unit / strips * level.outer_stride + begin * level.inner + lane0;
      const int n = groups(level, unit);
      return {offset, level.inner, length, n, rows(level, unit, n - 1), kLanes};
    }
    const int64_t offset = unit * level.outer_stride + segment * level.segment_stride + begin;
    const int64_t count = (length + kLanes - 1) / kLanes;
    return {offset, kLanes, count, 1, kLanes, int(length - (count - 1) * kLanes)};
  }
};

// Whole lines may go past the caches, without being read first: worth it for a large map that is
// written with long strides.
template <class S>
SSSD_INLINE bool may_stream(const char* target, Dtype dtype, int64_t step, int64_t bytes) {
  constexpr int64_t kLarge = int64_t{4} << 20;
  return kVectorBytes == 64 && sizeof(S) == 4 && dtype == Dtype::f32 && bytes >= kLarge &&
         step != kVectorBytes && (reinterpret_cast<uintptr_t>(target) | step) % 64 == 0;
}
SSSD_INLINE void stream(char* target, Lanes<float> x) {
#ifdef __AVX512F__
  _mm512_stream_ps(reinterpret_cast<float*>(target), (__m512)x.raw);
#else
  (void)target, (void)x;  // `may_stream` says no
#endif
}
SSSD_INLINE void stream(char*, Lanes<double>) {}
// Before other threads may read what was streamed.
SSSD_INLINE void end_stream() {
#ifdef __AVX512F__
  _mm_sfence();
#endif
}

// One side of a level.
struct Side {
  const void* data;
  Dtype dtype;
};
// The same where the dtype is known when the kernel is compiled.
template <Dtype kDtype>
struct SideOf {
  const void* data;
  static constexpr Dtype dtype = kDtype;
};
// body(student, teacher): compiled for each dtype that both share, and once for all other pairs.
template <class Body>
SSSD_INLINE void with_sides(const Levels& levels, const Level& level, Body&& body) {
  const void *a = level.student, *b = level.teacher;
  const Dtype dtype = levels.student_dtype;
  if (dtype != levels.teacher_dtype || dtype == Dtype::f64)
    body(Side{a, dtype}, Side{b, levels.teacher_dtype});
  else if (dtype == Dtype::f32)
    body(SideOf<Dtype::f32>{a}, SideOf<Dtype::f32>{b});
  else if (dtype == Dtype::bf16)
    body(SideOf<Dtype::bf16>{a}, SideOf<Dtype::bf16>{b});
  else
    body(SideOf<Dtype::f16>{a}, SideOf<Dtype::f16>{b});
}

// A compile-time count, so that a block of vectors stays in registers.
template <int N>
struct Count {
  static constexpr int value = N;
};

// A strip is read with long strides, which no processor foresees: with every group of a block the
// lines of that group in the next block are fetched. A few at a time, so that nothing waits for
// them; and into the second cache, as the first has no room for two blocks.
SSSD_INLINE void fetch_group(const char* source, int64_t step) {
  for (int i = 0; i < kBlock; ++i) __builtin_prefetch(source + i * step, 0, 2);
}

// body(Count<N>, group, x, y, index of the first vector, valid lanes), over the vectors of a run,
// kBlock of a group at a time: x(i) and y(i) load the i-th of N vectors of sides a and b. Lanes
// that hold no element hold pad(group).
template <class S, class A, class B, class Pad, class Body>
SSSD_INLINE void for_blocks(const Run& run, A a, B b, Pad&& pad, Body&& body) {
  using V = Lanes<S>;
  constexpr int kLanes = V::kCount;
  const char* from_a = at(a.data, a.dtype, run.offset);
  const char* from_b = at(b.data, b.dtype, run.offset);
  const int64_t step_a = run.step * bytes_of(a.dtype), step_b = run.step * bytes_of(b.dtype);
  const int64_t side_a = kLanes * bytes_of(a.dtype), side_b = kLanes * bytes_of(b.dtype);
  const int whole_groups = run.valid_last_group < kLanes ? run.groups - 1 : run.groups;
  const int64_t whole = run.valid_last < kLanes ? run.count - 1 : run.count;
  int64_t i = 0;
  for (; i + kBlock <= whole; i += kBlock) {
    const bool more = run.step != kLanes && i + 2 * kBlock <= whole;
    for (int group = 0; group < whole_groups; ++group) {
      const char* block_a = from_a + i * step_a + group * side_a;
      const char* block_b = from_b + i * step_b + group * side_b;
      if (more) {
        fetch_group(block_a + kBlock * step_a, step_a);
        fetch_group(block_b + kBlock * step_b, step_b);
      }
      body(
          Count<kBlock>(), group, [&](int k) { return load<S>(block_a + k * step_a, a.dtype); },
          [&](int k) { return load<S>(block_b + k * step_b, b.dtype); }, i, kLanes);
    }
  }
  // What is left of the run: its last vectors, then the group that is not full.
  for (int group = 0; group < run.groups; ++group) {
    for (int64_t j = group < whole_groups ? i : 0; j < run.count; ++j) {
      int valid = group < whole_groups ? kLanes : run.valid_last_group;
      if (j + 1 == run.count && run.valid_last < valid) valid = run.valid_last;
      const auto padding = pad(group);
      const V x = load_first(from_a + j * step_a + group * side_a, a.dtype, valid, padding.a);
      const V y = load_first(from_b + j * step_b + group * side_b, b.dtype, valid, padding.b);
      body(Count<1>(), group, [&](int) { return x; }, [&](int) { return y; }, j, valid);
    }
  }
}

}  // namespace sssd::divergence::SSSD_ISA
