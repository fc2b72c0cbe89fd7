// How one launch covers the rows of its levels: what the host decides and the kernels read.
#pragma once

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
  Constants<float> constants = Constants<float>(Settings{}, 1);
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

constexpr int kElements = 8;  // a chunk: of each map, that a thread holds in registers
// That it computes with at a time: four fill the pipelines, and eight would need more registers
// than let several blocks share an SM.
constexpr int kHalf = kElements / 2;
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

}  // namespace sssd::divergence
