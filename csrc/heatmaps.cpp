// Label heatmaps for torch, plain and embedded: check what reaches memory, allocate, hand raw
// pointers to the kernels. Schemas and gradients are in sssd/ops/box_kernels.py.
#include "csrc/boxes.h"

namespace {

using namespace sssd;
using namespace sssd::glue;

// The options of a heatmap, as the schemas of its three operators spell them.
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
#ifdef SSSD_WITH_CUDA
    if (launched(boxes_cuda::heatmap, problem, boxes_cuda::workspace_bytes(problem), boxes)) return;
#endif
    const boxes_cpu::ObjectStore store(problem);
    run_cpu(boxes_cpu::heatmap_units(problem), boxes_cpu::kernels().heatmap, problem, store);
  });
  return maps;
}

Tensors embed_heatmap(Tensor embedding, Tensor boxes, Tensor labels, Tensor image_index,
                      Ints image_size, Ints shapes, int64_t batch, int64_t profile, int64_t combine,
                      double min_overlap, std::optional<Tensor> assigned,
                      std::optional<Tensor> strength) {
  const Objects objects(boxes, image_index, image_size, labels);
  const int64_t levels = static_cast<int64_t>(shapes.size()) / 2;
  const HeatmapOptions options(assigned, strength, profile, combine, min_overlap, boxes, levels);
  STD_TORCH_CHECK(embedding.dim() == 2 && embedding.device() == boxes.device(),
                  "embedding must be (K, C) on the device of the boxes");
  const Tensor table = torch::stable::contiguous(embedding);
  const int64_t classes = table.size(0), channels = table.size(1);
  objects.check_values(objects.image_index, "image_index", batch);
  objects.check_values(*objects.labels, "labels", classes);
  Tensors maps = new_maps(table, shapes, batch, channels, {});
  for_levels(maps, [&](const BoxLevels& chunk, int64_t first) {
    const EmbedProblem problem{
        options.problem(chunk, first, objects, dtype_of(table), batch, classes),
        const_cast<void*>(table.const_data_ptr()), channels};
#ifdef SSSD_WITH_CUDA
    if (launched(boxes_cuda::embed, problem, boxes_cuda::workspace_bytes(problem), boxes)) return;
#endif
    const boxes_cpu::ObjectStore store(problem.heatmap);
    run_cpu(boxes_cpu::embed_units(problem), boxes_cpu::kernels().embed, problem, store);
  });
  return maps;
}

Tensor embed_heatmap_backward(Tensors grads, Tensor boxes, Tensor labels, Tensor image_index,
                              Ints image_size, int64_t classes, int64_t profile, int64_t combine,
                              double min_overlap, std::optional<Tensor> assigned,
                              std::optional<Tensor> strength) {
  const Objects objects(boxes, image_index, image_size, labels);
  STD_TORCH_CHECK(!grads.empty() && static_cast<int>(grads.size()) <= kMaxLevels,
                  "the backward of an embedded heatmap takes 1 to 16 levels");
  Tensors maps;
  for (const Tensor& grad : grads) {
    check_map(grad, grads[0], boxes, "grads");
    maps.push_back(torch::stable::contiguous(grad));
  }
  const int64_t levels = static_cast<int64_t>(maps.size());
  const HeatmapOptions options(assigned, strength, profile, combine, min_overlap, boxes, levels);
  const int64_t batch = maps[0].size(0), size[2] = {classes, maps[0].size(1)};
  objects.check_values(objects.image_index, "image_index", batch);
  objects.check_values(*objects.labels, "labels", classes);
  Tensor grad = torch::stable::new_zeros(maps[0], {size, 2});
  const EmbedProblem problem{
      options.problem(levels_of(maps), 0, objects, dtype_of(grad), batch, classes),
      grad.mutable_data_ptr(), size[1]};
#ifdef SSSD_WITH_CUDA
  const int64_t bytes = boxes.is_cuda() ? boxes_cuda::backward_workspace_bytes(problem) : 0;
  if (launched(boxes_cuda::embed_backward, problem, bytes, boxes)) return grad;
#endif
  const boxes_cpu::ObjectStore store(problem.heatmap);
  run_cpu(boxes_cpu::embed_backward_units(problem), boxes_cpu::kernels().embed_backward, problem,
          store);
  return grad;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sssd, CPU, m) {
  m.impl("label_heatmap", TORCH_BOX(&label_heatmap));
  m.impl("embed_heatmap", TORCH_BOX(&embed_heatmap));
  m.impl("embed_heatmap_backward", TORCH_BOX(&embed_heatmap_backward));
}

#ifdef SSSD_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(sssd, CUDA, m) {
  m.impl("label_heatmap", TORCH_BOX(&label_heatmap));
  m.impl("embed_heatmap", TORCH_BOX(&embed_heatmap));
  m.impl("embed_heatmap_backward", TORCH_BOX(&embed_heatmap_backward));
}
#endif
