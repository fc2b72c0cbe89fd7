// The box operators on the CPU. A call has two steps: `Objects` is worked out once, then the kernel
// runs units of work on any number of threads; a unit writes only its own part of the output.
#pragma once

#include <vector>

#include "kernels/boxes/stamp.h"
#include "kernels/common/cpu_isa.h"
#include "kernels/common/tasks.h"

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

struct Kernels {
  void (*pool)(const PoolProblem&, const Objects&, ParallelFor);
  void (*paint)(const PaintProblem&, const Objects&, ParallelFor);
  void (*heatmap)(const HeatmapProblem&, const Objects&, ParallelFor);
};
namespace baseline {  // cpu.cpp, compiled once for each
extern const Kernels kernels;
}
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}

inline const Kernels& kernels() { return SSSD_FOR_THIS_CPU(kernels); }

}  // namespace sssd::boxes_cpu
