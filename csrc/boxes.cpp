// The box operators for torch: check what reaches memory, allocate, hand raw pointers to the
// kernels. Schemas and gradients are in sssd/ops/box_kernels.py. What a user did wrong is said by
// the Python face; the checks here keep a direct call from reading out of bounds.
#include "kernels/boxes/boxes.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "csrc/glue.h"
#include "kernels/boxes/cpu.h"
#ifdef SSSD_WITH_CUDA
#include "kernels/boxes/cuda.h"
#endif

namespace {

using namespace sssd;
using namespace sssd::glue;
using torch::headeronly::MemoryFormat;
using Ints = std::vector<int64_t>;
using Tensors = std::vector<Tensor>;

// Dense with the channels last (and not also contiguous, as a map of one cell is).
bool dense_channels_last(const Tensor& map) {
  if (map.is_contiguous()) return false;
  const auto size = map.sizes(), stride = map.strides();
  const int64_t expected[4] = {size[1] * size[2] * size[3], 1, size[1] * size[3], size[1]};
  for (int d = 0; d < 4; ++d)
    if (size[d] != 1 && stride[d] != expected[d]) return false;
  return true;
}

// Boxes, image index and labels in the layout that the kernels read; owns what it had to copy.
struct Objects {
  Tensor boxes, image_index;
  std::optional<Tensor> labels;
  PackedObjects packed;

  Objects(const Tensor& given_boxes, const Tensor& given_index, const Ints& image_size,
          std::optional<Tensor> given_labels = std::nullopt)
      : boxes(torch::stable::contiguous(given_boxes)),
        image_index(torch::stable::contiguous(given_index)),
        labels(given_labels) {
    STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, "boxes must be (T, 4)");
    const bool f64 = boxes.scalar_type() == ScalarType::Double;
    STD_TORCH_CHECK(f64 || boxes.scalar_type() == ScalarType::Float,
                    "boxes must be float32 or float64");
    STD_TORCH_CHECK(image_size.size() == 2 && image_size[0] > 0 && image_size[1] > 0,
                    "image_size must be (height, width), both positive");
    check_one_each(image_index, "image_index");
    if (labels) {
      labels = torch::stable::to(torch::stable::contiguous(*labels), image_index.scalar_type());
      check_one_each(*labels, "labels");
    }
    const bool i64 = image_index.scalar_type() == ScalarType::Long;
    packed = {boxes.const_data_ptr(),
              image_index.const_data_ptr(),
              f64,
              i64,
              boxes.size(0),
              {static_cast<int32_t>(image_size[0]), static_cast<int32_t>(image_size[1])}};
  }

  void check_one_each(const Tensor& value, const char* name) const {
    STD_TORCH_CHECK(value.dim() == 1 && value.size(0) == boxes.size(0), name,
                    " must have one value a box");
    STD_TORCH_CHECK(
        value.scalar_type() == ScalarType::Long || value.scalar_type() == ScalarType::Int, name,
        " must be int64 or int32");
    STD_TORCH_CHECK(value.device() == boxes.device(), name, " must be on the device of the boxes");
  }

  // What the CPU can see at no cost: an index that belongs nowhere is an error, not an empty map.
  void check_values(const Tensor& value, const char* name, int64_t end) const {
    if (!boxes.is_cpu()) return;
    for (int64_t t = 0; t < packed.count; ++t) {
      const int64_t here = packed.index_i64 ? value.const_data_ptr<int64_t>()[t]
                                            : value.const_data_ptr<int32_t>()[t];
      STD_TORCH_CHECK(here >= 0 && here < end, name, "[", t, "] is ", here, ", outside 0 .. ",
                      end - 1);
    }
  }
};

void check_map(const Tensor& map, const Tensor& first, const Tensor& boxes, const char* name) {
  STD_TORCH_CHECK(map.dim() == 4 && map.size(0) == first.size(0) && map.size(1) == first.size(1),
                  name, " must all be (B, C, H, W) with the same B and C");
  STD_TORCH_CHECK(map.scalar_type() == first.scalar_type(), name, " must be of one dtype");
  STD_TORCH_CHECK(map.device() == boxes.device(), name, " must be on the device of the boxes");
}

BoxLevel level_of(const Tensor& map, void* data) {
  return {data,
          {static_cast<int32_t>(map.size(2)), static_cast<int32_t>(map.size(3))},
          dense_channels_last(map)};
}

// Maps to read: dense in one of the two memory formats.
Tensors dense(const Tensors& maps, const Tensor& boxes, const char* name) {
  STD_TORCH_CHECK(!maps.empty(), name, " must not be empty");
  Tensors result;
  for (const Tensor& map : maps) {
    check_map(map, maps[0], boxes, name);
    result.push_back(dense_channels_last(map) ? map : torch::stable::contiguous(map));
  }
  return result;
}

// New maps (batch, channels, height, width) of each (height, width) in `shapes`.
Tensors new_maps(const Tensor& like, const Ints& shapes, int64_t batch, int64_t channels,
                 const Ints& channels_last) {
  STD_TORCH_CHECK(shapes.size() % 2 == 0 && !shapes.empty() && batch >= 0,
                  "shapes must hold (height, width) of every level, batch must not be negative");
  STD_TORCH_CHECK(channels_last.empty() || channels_last.size() * 2 == shapes.size(),
                  "channels_last must have one flag a level");
  Tensors maps;
  for (size_t l = 0; l < shapes.size() / 2; ++l) {
    const int64_t size[4] = {batch, channels, shapes[2 * l], shapes[2 * l + 1]};
    STD_TORCH_CHECK(size[2] >= 0 && size[3] >= 0, "shapes must not be negative");
    const bool last = !channels_last.empty() && channels_last[l] != 0;
    maps.push_back(torch::stable::empty(
        {size, 4}, like.scalar_type(), std::nullopt, like.device(), std::nullopt,
        last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous));
    if (like.is_cpu())
      boxes_cpu::prefer_large_pages(maps.back().mutable_data_ptr(),
                                    maps.back().numel() * maps.back().element_size());
  }
  return maps;
}

// Runs `launch(levels, first level)` for at most kMaxLevels maps at a time.
template <class Launch>
void for_levels(const Tensors& maps, Launch launch) {
  for (size_t first = 0; first < maps.size(); first += kMaxLevels) {
    BoxLevels levels{};
    const size_t end = std::min(maps.size(), first + kMaxLevels);
    for (size_t l = first; l < end; ++l)
      levels.level[levels.count++] = level_of(maps[l], const_cast<void*>(maps[l].const_data_ptr()));
    launch(levels, static_cast<int64_t>(first));
  }
}

// All units of a CPU kernel, on torch's threads.
template <class Problem>
void run_cpu(int64_t units,
             void (*kernel)(const Problem&, const boxes_cpu::Objects&, int64_t, int64_t),
             const Problem& problem, const boxes_cpu::ObjectStore& store) {
  const boxes_cpu::Objects objects = store.view();
  torch::stable::parallel_for(0, units, 1, [&](int64_t begin, int64_t end) {
    if (begin < end) kernel(problem, objects, begin, end);
  });
}

#ifdef SSSD_WITH_CUDA
// Whether the tensors are on a GPU; if so the problem was launched there.
template <class Problem>
bool launched(const char* (*launch)(const Problem&, void*), const Problem& problem,
              const Tensor& boxes) {
  if (!boxes.is_cuda()) return false;
  const torch::stable::accelerator::DeviceGuard guard(boxes.get_device_index());
  throw_if(launch(problem, current_stream(boxes)));
  return true;
}
#endif

template <class T>
T* offset(T* data, int64_t bytes) {
  return reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(data) + bytes);
}

Tensor box_pool(Tensors levels, Tensor boxes, Tensor image_index, Ints image_size, bool mean) {
  const Objects objects(boxes, image_index, image_size);
  const Tensors maps = dense(levels, boxes, "levels");
  const int64_t batch = maps[0].size(0), channels = maps[0].size(1);
  const Dtype dtype = dtype_of(maps[0]);
  objects.check_values(objects.image_index, "image_index", batch);
  const int64_t size[3] = {static_cast<int64_t>(maps.size()), boxes.size(0), channels};
  Tensor pooled = boxes.is_cuda() ? torch::stable::new_empty(maps[0], {size, 3})
                                  : torch::stable::new_zeros(maps[0], {size, 3});
  for_levels(maps, [&](const BoxLevels& chunk, int64_t first) {
    void* out = offset(pooled.mutable_data_ptr(),
                       first * size[1] * channels * static_cast<int64_t>(pooled.element_size()));
    const PoolProblem problem{chunk, objects.packed, out, dtype, batch, channels, mean};
#ifdef SSSD_WITH_CUDA
    if (launched(boxes_cuda::pool, problem, boxes)) return;
#endif
    const boxes_cpu::ObjectStore store(objects.packed, chunk, batch);
    run_cpu(boxes_cpu::pool_units(problem, store.view()), boxes_cpu::kernels().pool, problem,
            store);
  });
  return pooled;
}

Tensors box_paint(Tensor values, Tensor boxes, Tensor image_index, Ints image_size, Ints shapes,
                  int64_t batch, Ints channels_last, bool mean) {
  const Objects objects(boxes, image_index, image_size);
  const Tensor dense_values = torch::stable::contiguous(values);
  const bool per_level = values.dim() == 3;
  STD_TORCH_CHECK((values.dim() == 2 || per_level) && values.size(-2) == boxes.size(0),
                  "values must be (T, C) or (P, T, C)");
  STD_TORCH_CHECK(!per_level || values.size(0) * 2 == static_cast<int64_t>(shapes.size()),
                  "values must have one set of vectors a level");
  STD_TORCH_CHECK(values.device() == boxes.device(), "values must be on the device of the boxes");
  const int64_t channels = values.size(-1), stride = per_level ? boxes.size(0) * channels : 0;
  const Dtype dtype = dtype_of(values);
  objects.check_values(objects.image_index, "image_index", batch);
  Tensors maps = new_maps(values, shapes, batch, channels, channels_last);
  for_levels(maps, [&](const BoxLevels& chunk, int64_t first) {
    const void* from = offset(dense_values.const_data_ptr(),
                              first * stride * static_cast<int64_t>(values.element_size()));
    const PaintProblem problem{chunk, objects.packed, from, stride, dtype, batch, channels, mean};
#ifdef SSSD_WITH_CUDA
    if (launched(boxes_cuda::paint, problem, boxes)) return;
#endif
    const boxes_cpu::ObjectStore store(objects.packed, chunk, batch);
    run_cpu(boxes_cpu::paint_units(problem), boxes_cpu::kernels().paint, problem, store);
  });
  return maps;
}

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
    if (launched(boxes_cuda::heatmap, problem, boxes)) return;
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
  for_levels(maps, [&](const BoxLevels& chunk, int64_t first) {
    const EmbedProblem problem{
        options.problem(chunk, first, objects, dtype_of(grad), batch, classes),
        grad.mutable_data_ptr(), size[1]};
    const boxes_cpu::ObjectStore store(problem.heatmap);
    run_cpu(boxes_cpu::embed_backward_units(problem), boxes_cpu::kernels().embed_backward, problem,
            store);
  });
  return grad;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sssd, CPU, m) {
  m.impl("box_pool", TORCH_BOX(&box_pool));
  m.impl("box_paint", TORCH_BOX(&box_paint));
  m.impl("label_heatmap", TORCH_BOX(&label_heatmap));
  m.impl("embed_heatmap", TORCH_BOX(&embed_heatmap));
  m.impl("embed_heatmap_backward", TORCH_BOX(&embed_heatmap_backward));
}

#ifdef SSSD_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(sssd, CUDA, m) {
  m.impl("box_pool", TORCH_BOX(&box_pool));
  m.impl("box_paint", TORCH_BOX(&box_paint));
  m.impl("label_heatmap", TORCH_BOX(&label_heatmap));
}
#endif
