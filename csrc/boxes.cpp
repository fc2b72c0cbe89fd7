// Pool and paint for torch: check what reaches memory, allocate, hand raw pointers to the kernels.
// Schemas and gradients are in sssd/ops/box_kernels.py. What a user did wrong is said by the Python
// face; the checks here keep a direct call from reading out of bounds.
#include "csrc/boxes.h"

namespace {

using namespace sssd;
using namespace sssd::glue;

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
#ifdef SSSD_CUDA_LIBRARY
    on_gpu(boxes_cuda::pool, problem, boxes_cuda::workspace_bytes(problem), boxes);
#else
    const boxes_cpu::ObjectStore store(objects.packed, chunk, batch);
    boxes_cpu::kernels().pool(problem, store.view(), parallel_tasks);
#endif
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
#ifdef SSSD_CUDA_LIBRARY
    on_gpu(boxes_cuda::paint, problem, boxes_cuda::workspace_bytes(problem), boxes);
#else
    const boxes_cpu::ObjectStore store(objects.packed, chunk, batch);
    boxes_cpu::kernels().paint(problem, store.view(), parallel_tasks);
#endif
  });
  return maps;
}

}  // namespace

SSSD_OPERATOR(box_pool)
SSSD_OPERATOR(box_paint)
