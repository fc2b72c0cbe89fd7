// Who is where: the objects sorted by image and their spans; what runs on which processor.
#include "kernels/boxes/cpu.h"
#include "kernels/boxes/units.h"
#include "kernels/common/cpu_isa.h"

namespace sssd::boxes_cpu {

template <class Key>
void ObjectStore::group_by(int64_t objects, int64_t groups, Key key) {
  start_.assign(groups + 1, 0);
  for (int64_t t = 0; t < objects; ++t)
    if (key(t) >= 0) ++start_[key(t) + 1];
  for (int64_t g = 0; g < groups; ++g) start_[g + 1] += start_[g];
  row_.resize(start_[groups]);
  std::vector<int64_t> next(start_.begin(), start_.end() - 1);
  for (int64_t t = 0; t < objects; ++t)
    if (key(t) >= 0) row_[next[key(t)]++] = t;
}

ObjectStore::ObjectStore(const PackedObjects& packed, const BoxLevels& levels, int64_t batch) {
  group_by(packed.count, batch, [&](int64_t t) {
    const int64_t image = packed.image_of(t);
    return image >= 0 && image < batch ? image : -1;
  });
  for (const int64_t t : row_) image_.push_back(packed.image_of(t));
  span_.reserve(levels.count * row_.size());
  for (int l = 0; l < levels.count; ++l)
    for (const int64_t t : row_)
      span_.push_back(cell_span(packed.box(t), packed.image, levels.level[l].size));
}

ObjectStore::ObjectStore(const HeatmapProblem& problem) {
  group_by(problem.objects.count, problem.batch * problem.classes, [&](int64_t t) {
    const int64_t image = problem.objects.image_of(t), label = problem.label_of(t);
    const bool fits = image >= 0 && image < problem.batch && label >= 0 && label < problem.classes;
    return fits ? image * problem.classes + label : -1;
  });
  stamp_.reserve(problem.levels.count * row_.size());
  for (int l = 0; l < problem.levels.count; ++l)
    for (const int64_t t : row_) stamp_.push_back(stamp_of(problem, l, t));
}

Objects ObjectStore::view() const {
  return {row_.data(),  image_.data(), start_.data(),
          span_.data(), stamp_.data(), static_cast<int64_t>(row_.size())};
}

int64_t pool_units(const PoolProblem& problem, const Objects& objects) {
  return pool_plane_units(problem) + pool_cell_units(problem, objects.count);
}
int64_t paint_units(const PaintProblem& problem) {
  const bool tiles = any_level(problem.levels, true);
  return paint_plane_units(problem) + (tiles ? RowTiles(problem.levels, problem.batch).total : 0);
}
int64_t heatmap_units(const HeatmapProblem& problem) {
  return problem.batch * problem.classes * problem.levels.count;
}
int64_t embed_units(const EmbedProblem& problem) {
  return RowTiles(problem.heatmap.levels, problem.heatmap.batch).total;
}
int64_t embed_backward_units(const EmbedProblem& problem) {
  return divide_up(problem.channels, kEmbedBlock);
}

const Kernels& kernels() {
#ifdef SSSD_X86
  if (cpu_isa() == CpuIsa::avx512) return kernels_avx512;
  if (cpu_isa() == CpuIsa::avx2) return kernels_avx2;
#endif
  return kernels_baseline;
}

}  // namespace sssd::boxes_cpu
