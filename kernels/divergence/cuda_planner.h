// How the levels of a call become launches: plain host arithmetic, the same with and without a GPU.
#pragma once

#include <algorithm>
#include <cmath>

#include "kernels/divergence/cuda_plan.h"

namespace sssd::divergence {

constexpr int64_t kEnoughTiles = 512;       // to fill any GPU; more only costs merging
constexpr int kStashBytes = 128 << 10;      // of shared memory that plans count on for long rows
constexpr int64_t kBackwardElements = 512;  // of a row that a strided backward tile takes

inline int64_t ceil_div(int64_t x, int64_t y) { return (x + y - 1) / y; }
inline int floor_power_of_two(int64_t x, int low, int high) {
  int power = low;
  while (power < high && power * 2 <= x) power *= 2;
  return power;
}

inline bool all_half(const Levels& levels) {
  return levels.student_dtype != Dtype::f32 && levels.teacher_dtype != Dtype::f32;
}

struct Planner {
  bool strided, backward;
  int width, stash_vectors, threads;
  int vectors() const { return kElements / width; }

  bool aligned(const Levels& levels, const Level& level) const {
    auto whole = [&](int64_t elements) { return elements % width == 0; };
    auto at = [&](const void* map, Dtype dtype) {
      return reinterpret_cast<uintptr_t>(map) % (width * (dtype == Dtype::f32 ? 4 : 2)) == 0;
    };
    return whole(strided ? level.inner : level.length) &&
           (level.outer == 1 || whole(level.outer_stride)) &&
           (level.segments == 1 || whole(level.segment_stride)) &&
           at(level.student, levels.student_dtype) && at(level.teacher, levels.teacher_dtype) &&
           (!backward || (at(level.grad_student, levels.student_dtype) &&
                          at(level.grad_teacher, levels.teacher_dtype)));
  }

  int lanes(const Level& level) const {
    if (strided) {
      // As wide as lets one block hold its rows; at least 64 bytes of neighbours (8 lanes: a whole
      // line, where rows are too long to hold or need not be held); at most what scratch can bear.
      const int least = stash_vectors == 1 ? 8 : 4;  // half precision, or single
      const bool holds = !backward && level.length <= resident(least);
      const int wide =
          floor_power_of_two(threads * vectors() / level.length, holds ? least : 8, 16);
      return std::min(wide, floor_power_of_two(2 * ceil_div(level.inner, width) - 1, 1, 16));
    }
    return floor_power_of_two(2 * ceil_div(level.length, kElements) - 1, 4, threads);
  }
  // Elements of a row that a chunk of all its threads has; that registers and stash hold.
  int64_t chunk(int lanes) const {
    return strided ? threads / lanes * vectors() : lanes * kElements;
  }
  int64_t resident(int lanes) const {
    return (1 + kStashBytes / (threads * stash_vectors * 2 * 16)) * chunk(lanes);
  }
  int rows(const LevelPlan& plan) const {  // of a tile
    return strided ? plan.lanes * width : threads / plan.lanes;
  }

  // Pieces of one segment.
  int64_t pieces(const Level& level, const LevelPlan& plan) const {
    if (backward)
      return ceil_div(level.length, strided ? kBackwardElements : 4 * kElements * threads);
    if (level.segments == 1 && level.length <= resident(plan.lanes)) return 1;
    const int64_t tiles =
        strided ? level.outer * ceil_div(level.inner, rows(plan)) : level.outer * level.segments;
    // Every piece reads the statistics of all: few enough that this is a twentieth of the maps.
    const int64_t cheap = std::sqrt(level.length * level.segments / 40.0) / level.segments;
    const int64_t most = std::min(ceil_div(level.length, chunk(plan.lanes)), cheap);
    return std::max<int64_t>(1, std::min(most, ceil_div(kEnoughTiles, tiles)));
  }

  LevelPlan plan(const Levels& levels, const Settings& settings, int l) const {
    const Level& level = levels.level[l];
    LevelPlan plan;
    plan.constants = Constants<float>(settings, level.row_length());
    plan.element_scale = element_scale<float>(settings, level.row_length());
    plan.index = l;
    plan.vectors = aligned(levels, level);
    if (level.rows() == 0 || level.row_length() == 0) return plan;
    plan.lanes = lanes(level);
    plan.piece_length = ceil_div(ceil_div(level.length, pieces(level, plan)), 8) * 8;
    plan.pieces = ceil_div(level.length, plan.piece_length) * level.segments;
    return plan;
  }
  int64_t tiles(const Level& level, const LevelPlan& plan) const {
    if (level.rows() == 0 || level.row_length() == 0) return 0;
    if (strided) return level.outer * ceil_div(level.inner, rows(plan)) * plan.pieces;
    return ceil_div(level.outer * plan.pieces, rows(plan));
  }
};

// The launch for the strided, or the contiguous, levels of a call; none if its count is 0.
inline Launch plan_launch(const Levels& levels, const Settings& settings, bool strided,
                          bool backward, int& threads) {
  const bool half = all_half(levels);
  Planner planner{strided, backward, strided || !half ? 4 : 8, half ? 1 : 2, 256};
  for (int l = 0; l < levels.count; ++l)
    if (!strided && !backward && levels.level[l].length > 4 * kElements * 256)
      planner.threads = kContiguousThreads;
  threads = planner.threads;
  Launch launch;
  launch.levels.rows = levels.rows;
  launch.levels.student_dtype = levels.student_dtype;
  launch.levels.teacher_dtype = levels.teacher_dtype;
  launch.settings = settings;
  launch.planes = saved_planes(settings);
  launch.stash_vectors = planner.stash_vectors;
  launch.width = planner.width;
  for (int l = 0; l < levels.count; ++l) {
    if ((levels.level[l].inner > 1) != strided) continue;
    Level& level = launch.levels.level[launch.levels.count] = levels.level[l];
    LevelPlan& plan = launch.plan[launch.levels.count++] = planner.plan(levels, settings, l);
    level.tile0 = launch.levels.tiles;
    plan.slot0 = launch.slots;
    launch.levels.tiles += planner.tiles(level, plan);
    if (launch.levels.tiles == level.tile0) continue;
    const int rows = planner.rows(plan);
    launch.scratch = std::max(launch.scratch, (std::max(launch.planes, 4) + 1) * rows);
    if (backward) continue;
    const int warps = planner.threads / 32;
    const int sums = member_of(settings) == Member::softmax_mse ? 4 : 3;  // reduced together
    launch.scratch = std::max(launch.scratch, sums * warps * (strided ? rows : 1));
    if (plan.pieces > 1)
      launch.slots += level.rows() * plan.pieces;
    else
      launch.stash =
          std::max<int64_t>(launch.stash, ceil_div(level.length, planner.chunk(plan.lanes)) - 1);
  }
  launch.scratch = (launch.scratch + 3) / 4 * 4;  // what follows is aligned for vectors
  return launch;
}

// The levels of a launch whose rows are cut into pieces.
inline Launch only_pieces(const Launch& launch) {
  Launch cut = launch;
  cut.levels.count = 0;
  cut.levels.tiles = 0;
  for (int l = 0; l < launch.levels.count; ++l) {
    if (launch.plan[l].pieces == 1) continue;
    const int64_t end =
        l + 1 < launch.levels.count ? launch.levels.level[l + 1].tile0 : launch.levels.tiles;
    Level& level = cut.levels.level[cut.levels.count] = launch.levels.level[l];
    cut.plan[cut.levels.count++] = launch.plan[l];
    level.tile0 = cut.levels.tiles;
    cut.levels.tiles += end - launch.levels.level[l].tile0;
  }
  return cut;
}

// Floats of workspace of a launch: statistics and sums of pieces, sums of tiles.
inline int64_t workspace_floats(const Launch& launch) {
  return 8 * launch.slots + 2 * launch.levels.tiles;
}

}  // namespace sssd::divergence
