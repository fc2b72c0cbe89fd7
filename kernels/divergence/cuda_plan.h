// How the levels of a call become launches: what the host decides and the kernels read. Plain host
// arithmetic, the same with and without a GPU.
#pragma once

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <iterator>

#include "kernels/divergence/constants.h"

namespace sssd::divergence {

// A level in a launch. A *tile* is what one block does. Two shapes serve every layout:
//
//   strided     (inner > 1)  `lanes` threads side by side, each with a vector of neighbouring rows;
//                            the other threads of the block take further elements of the same rows
//   contiguous  (inner == 1) `lanes` threads to a row; a block takes several rows
//
// A row too long for one block, or one that lies in several segments, is cut into *pieces*. A piece
// of a row has a *slot* in the planes that carry its statistics and sums to other blocks and to the
// next launch; with one piece the slot is the row. The pieces of a *clustered* row are the blocks
// of a cluster, each of which keeps its piece on the chip until it knows the statistics of all.
struct LevelPlan {
  Constants<float> constants = Constants<float>(Settings{}, 1, 1);
  float element_scale = 1.0f;  // of a row's divergence: 1, or 1 / elements
  int64_t pieces = 1;          // of a row, all segments together
  int64_t piece_length = 0;    // elements; the last piece of a segment may have fewer
  int64_t slot0 = 0;           // of this level's first piece
  int lanes = 1;
  int index = 0;           // of the level in the call: where its value goes
  bool vectors = false;    // alignment and sizes allow whole vectors everywhere
  bool pairs = false;      // strided, half precision: and vectors of twice as many
  bool clustered = false;  // the pieces of a row are a cluster
};

struct Launch {
  Levels levels = {};
  LevelPlan plan[kMaxLevels];
  Settings settings = {};
  int threads = 0;               // of a block
  int cluster = 1;               // blocks of a cluster, in forward
  int planes = 0;                // saved a row
  int scratch = 0;               // floats in each of the two regions of shared memory for sums
  int stash = 0;                 // chunks that a thread may keep in shared memory, after those
  int stash_vectors = 2;         // 16-byte pieces of a chunk of one map
  int width = 4;                 // elements of a contiguous vector
  int64_t slots = 0;             // of all pieces: the length of a plane of piece_stats, piece_sums
  float* saved = nullptr;        // [planes][rows]
  float* piece_stats = nullptr;  // [4][slots]
  float* piece_sums = nullptr;   // [4][slots]
  float* tile_sums = nullptr;    // [tiles][2]: weighted contributions, weights
  float* values = nullptr;       // [levels]
  float* factors = nullptr;      // [levels]: d value / d contributions
  const float* grad_values = nullptr;  // [levels], backward
};

// Strided slots are ordered by piece, contiguous ones by row, as the tiles that write them are.
template <bool kStrided>
SSSD_HOST_DEVICE inline int64_t piece_slot(const Level& level, const LevelPlan& plan, int64_t row,
                                           int64_t piece) {
  return plan.slot0 + (kStrided ? piece * level.rows() + row : row * plan.pieces + piece);
}
SSSD_HOST_DEVICE inline int64_t piece_elements(const Level& level, const LevelPlan& plan,
                                               int64_t piece) {
  const int64_t before = piece % (plan.pieces / level.segments) * plan.piece_length;
  return before + plan.piece_length < level.length ? plan.piece_length : level.length - before;
}

constexpr int kElements = 8;      // a chunk: of each map, that a thread holds in registers
constexpr int kStridedWidth = 4;  // rows that a thread has elements of
// Threads of a block, at most: a contiguous row may be long, so more share it.
constexpr int kStridedThreads = 256, kContiguousThreads = 512, kBackwardThreads = 256;
constexpr int kFinishThreads = 512;
// Blocks that an SM must be able to hold at once, so that some load while others compute: as many
// as the registers of a strided thread allow without spilling (registers.csv), which is the
// compiler's to say for each architecture.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
constexpr int kFewer = 2;
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 860
constexpr int kFewer = 1;
#else
constexpr int kFewer = 0;
#endif
template <class Member>
constexpr int kBlocks = 2;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
template <>
constexpr int kBlocks<struct Js> = 2 - kFewer / 2;
#else
template <>
constexpr int kBlocks<struct Js> = 3 - kFewer;
#endif
template <>
constexpr int kBlocks<struct Kl> = 3 - kFewer;
// The same for a contiguous thread in backward.
constexpr int kBackwardBlocks = 3;

// ---- on the host --------------------------------------------------------------------------------

// What no formula gives and nobody has timed yet, powers of two. SSSD_CUDA_PLAN="cluster=4 rows=32"
// sets some of them; `python -m bench.gpu --stage choose` finds the best on a GPU.
struct Switches {
  int64_t cluster = 8;     // most blocks that keep a row together
  int64_t threads = 256;   // of a block, but for long contiguous rows
  int64_t rows = 64;       // of a strided tile, at most
  int64_t tiles = 512;     // that fill any GPU; more only costs merging
  int64_t backward = 512;  // elements of a row that a strided backward tile takes

  // From a text, or none: null, or what is wrong with it.
  const char* read(const char* text) {
    struct Known {
      const char* name;
      int64_t Switches::* value;
      int64_t least, most;
    };
    constexpr Known known[] = {{"cluster", &Switches::cluster, 1, 8},
                               {"threads", &Switches::threads, 128, 256},
                               {"rows", &Switches::rows, 16, 64},
                               {"tiles", &Switches::tiles, 64, 4096},
                               {"backward", &Switches::backward, 64, 4096}};
    while (text && *text) {
      char name[16] = "";
      long long value = 0;
      int length = 0;
      std::sscanf(text, " %15[a-z]=%lld %n", name, &value, &length);
      const auto fits = [&](const Known& one) {
        return !std::strcmp(one.name, name) && one.least <= value && value <= one.most &&
               (value & (value - 1)) == 0;
      };
      const Known* const one = std::find_if(std::begin(known), std::end(known), fits);
      if (length == 0 || one == std::end(known))
        return "SSSD_CUDA_PLAN takes powers of two: cluster (1 to 8), threads (128, 256), rows "
               "(16 to 64), tiles and backward (64 to 4096), as in \"cluster=4 rows=32\"; unset "
               "it for the defaults";
      this->*one->value = value;
      text += length;
    }
    return nullptr;
  }
};

// What the blocks of a launch may use of the GPU.
struct Chip {
  int64_t shared_bytes = 0;  // of a block
  int cluster = 1;           // blocks that may keep a row together, a power of two
  Switches switches = {};
};

inline int64_t ceil_div(int64_t x, int64_t y) { return (x + y - 1) / y; }
inline int64_t round_up(int64_t x, int64_t to) { return ceil_div(x, to) * to; }
inline int floor_power_of_two(int64_t x, int64_t low, int64_t high) {
  int64_t power = low;
  while (power < high && power * 2 <= x) power *= 2;
  return static_cast<int>(power);
}
inline int bytes_of(Dtype dtype) { return dtype == Dtype::f32 ? 4 : 2; }

// What a launch must know of a member.
struct Facts {
  int planes;             // saved a row
  int sums;               // of a row, which threads reduce together
  double gradient_scale;  // see Constants
};
template <class Member>
Facts facts_of(const Settings& settings) {
  using Sums = typename Member::template Sums<float>;
  constexpr int sums = sizeof(Sums) / sizeof(float);
  static_assert(sums <= 4, "Launch::piece_sums has four planes");
  return {Member::planes(settings), sums, Member::gradient_scale(settings)};
}

struct Planner {
  const Levels& levels;
  const Settings& settings;
  Facts facts;
  Chip chip;
  bool strided, backward;
  // The same for all levels of the launch:
  bool half;                   // both maps in half precision
  int width;                   // of a vector
  int threads;                 // of a block
  int most_rows;               // of a tile; their sums lie in shared memory
  int cluster = 1;             // blocks of a cluster
  int stash_vectors = 2;       // 16-byte pieces of a chunk of one map
  int64_t stash_capacity = 0;  // chunks

  Planner(const Levels& all, const Settings& given, Facts member, Chip on, bool lanes_along_rows,
          bool gradients)
      : levels(all),
        settings(given),
        facts(member),
        chip(on),
        strided(lanes_along_rows),
        backward(gradients) {
    threads = static_cast<int>(chip.switches.threads);
    half = levels.student_dtype != Dtype::f32 && levels.teacher_dtype != Dtype::f32;
    width = strided || !half ? 4 : 8;
    if (half) stash_vectors = 1;
    bool any_long = false;  // rows that need much of shared memory
    each_level([&](const Level& level) { any_long |= is_long(level); });
    if (!strided && !backward && any_long) threads = kContiguousThreads;
    share_memory(strided ? static_cast<int>(chip.switches.rows) : threads / 4);
    if (backward) return;
    if (any_long) {  // they have it, if that keeps one of them, and small tiles do with little
      const int usual = most_rows;
      bool kept = false;
      share_memory(16);
      each_level([&](const Level& level) { kept |= is_long(level) && holding(level).blocks > 0; });
      if (!kept) share_memory(usual);
    }
    each_level([&](const Level& l) { cluster = std::max(cluster, holding(l).blocks); });
  }
  template <class Use>
  void each_level(Use use) const {
    for (int l = 0; l < levels.count; ++l)
      if (takes(levels.level[l])) use(levels.level[l]);
  }
  bool is_long(const Level& level) const { return level.length > (strided ? 512 : 8192); }
  void share_memory(int rows) {
    most_rows = rows;
    const int64_t chunk_bytes = threads * stash_vectors * 2 * 16;
    stash_capacity = std::max<int64_t>(0, chip.shared_bytes - scratch_bytes(rows)) / chunk_bytes;
  }

  bool takes(const Level& level) const { return (level.inner > 1) == strided; }
  static bool empty(const Level& level) { return level.rows() == 0 || level.row_length() == 0; }
  int vectors() const { return kElements / width; }  // of a chunk

  // Floats in one region of scratch.
  int scratch(int rows) const {
    const int planes = (std::max(facts.planes, 4) + 1) * rows;
    const int sums = facts.sums * threads / 32 * (strided ? rows : 1);
    return round_up(backward ? planes : std::max(planes, sums), 4);  // vectors follow, aligned
  }
  int64_t scratch_bytes(int rows) const { return 2 * scratch(rows) * int64_t(sizeof(float)); }

  // Whether vectors of so many elements (of 16 bytes at most) are whole everywhere in a map.
  bool aligned(const Level& level, const void* map, const void* gradient, Dtype dtype,
               int elements) const {
    const auto whole = [&](int64_t n) { return n % elements == 0; };
    const auto at = [&](const void* address) {
      return reinterpret_cast<uintptr_t>(address) % (elements * bytes_of(dtype)) == 0;
    };
    return whole(strided ? level.inner : level.length) &&
           (level.outer == 1 || whole(level.outer_stride)) &&
           (level.segments == 1 || whole(level.segment_stride)) && at(map) &&
           (!backward || at(gradient));
  }
  bool aligned(const Level& level, int elements, bool only_half) const {
    const auto side = [&](const void* map, const void* gradient, Dtype dtype) {
      return (only_half && dtype == Dtype::f32) || aligned(level, map, gradient, dtype, elements);
    };
    return side(level.student, level.grad_student, levels.student_dtype) &&
           side(level.teacher, level.grad_teacher, levels.teacher_dtype);
  }

  // Elements of a row that a chunk of all its threads has; that registers and stash hold.
  int64_t chunk(int lanes) const {
    return strided ? threads / lanes * vectors() : lanes * kElements;
  }
  int64_t resident(int lanes) const { return (1 + stash_capacity) * chunk(lanes); }
  int rows(int lanes) const { return strided ? lanes * width : threads / lanes; }  // of a tile

  // How rows stay on the chip: lanes of a tile, and the blocks that keep a row together (0: not).
  struct Holding {
    int lanes, blocks;
  };
  Holding holding(const Level& level) const {
    if (empty(level) || backward) return {usual_lanes(level, 8), 0};
    // Neighbouring rows fill whole 64 bytes, or at least sectors of 32, where that keeps them.
    const int line = half ? 8 : 4;
    const int sector = levels.student_dtype == levels.teacher_dtype && !half ? 2 : 4;
    for (int blocks = 1; blocks <= chip.cluster; blocks *= 2)
      for (const int least : {line, sector}) {
        const int lanes = usual_lanes(level, least);
        if (blocks % level.segments != 0 || (blocks > 1 && !strided && lanes != threads)) continue;
        const int64_t piece = round_up(ceil_div(level.length * level.segments, blocks), 8);
        const bool whole_pieces = ceil_div(level.length, piece) * level.segments == blocks;
        if ((blocks == 1 || whole_pieces) && piece <= resident(lanes)) return {lanes, blocks};
      }
    return {usual_lanes(level, 8), 0};
  }
  // As many threads for a row as it has work for; strided, at least so many neighbours.
  int usual_lanes(const Level& level, int least) const {
    if (!strided)
      return floor_power_of_two(2 * ceil_div(level.length, kElements) - 1, threads / most_rows,
                                threads);
    const int most = most_rows / width;
    const int wide = floor_power_of_two(threads * vectors() / std::max<int64_t>(level.length, 1),
                                        std::min(least, most), most);
    return std::min(wide, floor_power_of_two(2 * ceil_div(level.inner, width) - 1, 1, most));
  }

  // Pieces of one segment of a row that is read twice, or in backward.
  int64_t pieces(const Level& level, int lanes) const {
    if (backward)
      return ceil_div(level.length, strided ? chip.switches.backward : 4 * kElements * threads);
    const int64_t tiles =
        level.outer * (strided ? ceil_div(level.inner, rows(lanes)) : level.segments);
    // Every piece reads the statistics of all: few enough that this is a twentieth of the maps.
    const int64_t cheap = std::sqrt(level.length * level.segments / 40.0) / level.segments;
    const int64_t most = std::min(ceil_div(level.length, chunk(lanes)), cheap);
    return std::max<int64_t>(1, std::min(most, ceil_div(chip.switches.tiles, tiles)));
  }

  LevelPlan plan(int l) const {
    const Level& level = levels.level[l];
    LevelPlan plan;
    plan.constants = Constants<float>(settings, level.row_length(), facts.gradient_scale);
    plan.element_scale = element_scale<float>(settings, level.row_length());
    plan.index = l;
    plan.vectors = aligned(level, width, false);
    if (empty(level)) return plan;
    const Holding held = holding(level);
    plan.lanes = held.lanes;
    plan.pairs = strided && plan.vectors && aligned(level, 2 * width, true);
    plan.clustered = held.blocks > 1;
    const int64_t parts = held.blocks == 1  ? 1
                          : held.blocks > 1 ? cluster / level.segments
                                            : pieces(level, held.lanes);
    plan.piece_length = round_up(ceil_div(level.length, parts), 8);
    plan.pieces = ceil_div(level.length, plan.piece_length) * level.segments;
    assert(!plan.clustered || plan.pieces == cluster);
    return plan;
  }
  int64_t tiles(const Level& level, const LevelPlan& plan) const {
    if (empty(level)) return 0;
    const int64_t rows = this->rows(plan.lanes);
    const int64_t count = strided ? level.outer * ceil_div(level.inner, rows) * plan.pieces
                                  : ceil_div(level.outer * plan.pieces, rows);
    return round_up(count, cluster);  // a cluster belongs to one level; the last may lack blocks
  }
  // Chunks that a thread keeps in shared memory.
  int64_t stash(const Level& level, const LevelPlan& plan) const {
    if (backward || (plan.pieces > 1 && !plan.clustered)) return 0;
    const int64_t length = std::min(level.length, plan.piece_length);
    return std::min(stash_capacity, ceil_div(length, chunk(plan.lanes)) - 1);
  }
};

// The launch for the strided, or the contiguous, levels of a call; none if its count is 0.
inline Launch plan_launch(const Levels& levels, const Settings& settings, Facts facts, Chip chip,
                          bool strided, bool backward) {
  const Planner planner(levels, settings, facts, chip, strided, backward);
  Launch launch;
  launch.levels.rows = levels.rows;
  launch.levels.student_dtype = levels.student_dtype;
  launch.levels.teacher_dtype = levels.teacher_dtype;
  launch.settings = settings;
  launch.planes = facts.planes;
  launch.threads = planner.threads;
  launch.cluster = planner.cluster;
  launch.stash_vectors = planner.stash_vectors;
  launch.width = planner.width;
  for (int l = 0; l < levels.count; ++l) {
    if (!planner.takes(levels.level[l])) continue;
    Level& level = launch.levels.level[launch.levels.count] = levels.level[l];
    LevelPlan& plan = launch.plan[launch.levels.count++] = planner.plan(l);
    level.tile0 = launch.levels.tiles;
    plan.slot0 = launch.slots;
    launch.levels.tiles += planner.tiles(level, plan);
    if (launch.levels.tiles == level.tile0) continue;
    launch.scratch = std::max(launch.scratch, planner.scratch(planner.rows(plan.lanes)));
    launch.stash = std::max<int64_t>(launch.stash, planner.stash(level, plan));
    if (plan.pieces > 1 && !backward)
      launch.slots += round_up(level.rows() * plan.pieces, 4);  // planes are aligned for vectors
  }
  return launch;
}

// The levels of a launch whose rows are cut into pieces that are read twice.
inline Launch only_pieces(const Launch& launch) {
  Launch cut = launch;
  cut.levels.count = 0;
  cut.levels.tiles = 0;
  for (int l = 0; l < launch.levels.count; ++l) {
    if (launch.plan[l].pieces == 1 || launch.plan[l].clustered) continue;
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
