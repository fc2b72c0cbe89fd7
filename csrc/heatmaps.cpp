// Label heatmaps for torch: check what reaches memory, allocate, hand raw pointers to the kernels.
// Their schema is in sssd/ops/box_kernels.py.
#include "csrc/boxes.h"

namespace {

using namespace sssd;
using namespace sssd::glue;

// The options of a heatmap.
struct HeatmapOptions {
  std::optional<Tensor> assigned, strength;
  int64_t profile, combine;
  double min_overlap;

  HeatmapOptions(std::optional<Tensor> given_assigned, std::optional<Tensor> given_strength,
                 int64_t profile, int64_t combine, double min_overlap, const Tensor& boxes,
                 int64_t levels)
      : assigned(given_assigned),
        strength(given_strength),
        profile(profile),
        combine(combine),
        min_overlap(min_overlap) {
    STD_TORCH_CHECK(profile >= 0 && profile < 4 && combine >= 0 && combine < 2,
                    "profile must be 0 .. 3 and combine 0 or 1");
    if (assigned) {
      assigned = torch::stable::contiguous(*assigned);
      STD_TORCH_CHECK(assigned->dim() == 2 && assigned->size(0) == levels &&
                          assigned->size(1) == boxes.size(0) &&
                          assigned->scalar_type() == ScalarType::Bool &&
                          assigned->device() == boxes.device(),
                      "assigned must be (P, T), bool, on the device of the boxes");
    }
    if (strength) {
      strength = torch::stable::to(torch::stable::contiguous(*strength), ScalarType::Float);
      STD_TORCH_CHECK(strength->dim() == 1 && strength->size(0) == boxes.size(0) &&
                          strength->device() == boxes.device(),
                      "strength must have one value a box, on the device of the boxes");
    }
  }

  HeatmapProblem problem(const BoxLevels& levels, int64_t first, const Objects& objects,
                         Dtype dtype, int64_t batch, int64_t classes) const {
    return {levels,
            objects.packed,
            objects.labels->const_data_ptr(),
            assigned ? assigned->const_data_ptr<bool>() + first * objects.packed.count : nullptr,
            strength ? strength->const_data_ptr<float>() : nullptr,
            dtype,
            batch,
            classes,
            static_cast<Profile>(profile),
            static_cast<Combine>(combine),
            min_overlap};
  }
};

Tensors label_heatmap(Tensor boxes, Tensor labels, Tensor image_index, Ints image_size, Ints shapes,
                      int64_t batch, int64_t classes, int64_t profile, int64_t combine,
                      double min_overlap, std::optional<Tensor> assigned,
                      std::optional<Tensor> strength, Tensor like) {
  const Objects objects(boxes, image_index, image_size, labels);
  const int64_t levels = static_cast<int64_t>(shapes.size()) / 2;
  const HeatmapOptions options(assigned, strength, profile, combine, min_overlap, boxes, levels);
  objects.check_values(objects.image_index, "image_index", batch);
  objects.check_values(*objects.labels, "labels", classes);
  Tensors maps = new_maps(like, shapes, batch, classes, {});
  for_levels(maps, [&](const BoxLevels& chunk, int64_t first) {
    const HeatmapProblem problem =
        options.problem(chunk, first, objects, dtype_of(like), batch, classes);
#ifdef SSSD_CUDA_LIBRARY
    on_gpu(boxes_cuda::heatmap, problem, boxes_cuda::workspace_bytes(problem), boxes);
#else
    const boxes_cpu::ObjectStore store(problem);
    boxes_cpu::kernels().heatmap(problem, store.view(), parallel_tasks);
#endif
  });
  return maps;
}

}  // namespace

SSSD_OPERATOR(label_heatmap)
