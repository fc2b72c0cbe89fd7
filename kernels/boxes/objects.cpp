// Who is where: the objects sorted by image, and their spans. Compiled once, for every processor:
// geometry rounds alike on all of them.
#include "kernels/boxes/cpu.h"

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

}  // namespace sssd::boxes_cpu
