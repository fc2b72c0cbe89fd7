// The box operators on the CPU. A call has two steps: `Objects` is worked out once, then units of
// work 0 .. units - 1 are run in any order by any number of threads; a unit writes only its own
// part of the output, so that the result never depends on how they were shared out.
#pragma once

#include <vector>

#include "kernels/boxes/stamp.h"

namespace sssd::boxes_cpu {

// The objects that belong to an image of the batch, those of one image together and in their order;
// for heatmaps those of one class together as well.
struct Objects {
  const int64_t* row;  // of the packed tensors
  const int64_t* image;
  const int64_t* start;  // of each group; one more entry closes the last
  const CellSpan* span;  // (P, count), for pool and paint
  const Stamp* stamp;    // (P, count), for heatmaps
  int64_t count;         // objects in the batch

  const CellSpan* spans(int level) const { return span + level * count; }
  const Stamp* stamps(int level) const { return stamp + level * count; }
};

class ObjectStore {  // O(P T) memory
 public:
  ObjectStore(const PackedObjects& packed, const BoxLevels& levels, int64_t batch);
  explicit ObjectStore(const HeatmapProblem& problem);
  Objects view() const;

 private:
  template <class Key>
  void group_by(int64_t objects, int64_t groups, Key key);

  std::vector<int64_t> row_, image_, start_;
  std::vector<CellSpan> span_;
  std::vector<Stamp> stamp_;
};

// Units are numbered so that neighbours cost alike: a thread takes a run of them.
int64_t pool_units(const PoolProblem& problem, const Objects& objects);
int64_t paint_units(const PaintProblem& problem);
int64_t heatmap_units(const HeatmapProblem& problem);
int64_t embed_units(const EmbedProblem& problem);
int64_t embed_backward_units(const EmbedProblem& problem);

struct Kernels {
  void (*pool)(const PoolProblem&, const Objects&, int64_t begin, int64_t end);
  void (*paint)(const PaintProblem&, const Objects&, int64_t begin, int64_t end);
  void (*heatmap)(const HeatmapProblem&, const Objects&, int64_t begin, int64_t end);
  void (*embed)(const EmbedProblem&, const Objects&, int64_t begin, int64_t end);
  void (*embed_backward)(const EmbedProblem&, const Objects&, int64_t begin, int64_t end);
};
extern const Kernels kernels_baseline, kernels_avx2, kernels_avx512;  // cpu.cpp, compiled thrice
// Those for the widest instructions that this processor has.
const Kernels& kernels();

}  // namespace sssd::boxes_cpu
