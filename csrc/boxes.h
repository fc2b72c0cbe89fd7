// What the box operators' glue has in common: objects and maps checked, allocated and handed over.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "csrc/glue.h"
#include "kernels/boxes/boxes.h"
#ifdef SSSD_CUDA_LIBRARY
#include "kernels/boxes/cuda.h"
#else
#include "kernels/boxes/cpu.h"
#endif

namespace sssd::glue {

using torch::headeronly::MemoryFormat;
using Ints = std::vector<int64_t>;
using Tensors = std::vector<Tensor>;

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

inline void check_map(const Tensor& map, const Tensor& first, const Tensor& boxes,
                      const char* name) {
  STD_TORCH_CHECK(map.dim() == 4 && map.size(0) == first.size(0) && map.size(1) == first.size(1),
                  name, " must all be (B, C, H, W) with the same B and C");
  STD_TORCH_CHECK(map.scalar_type() == first.scalar_type(), name, " must be of one dtype");
  STD_TORCH_CHECK(map.device() == boxes.device(), name, " must be on the device of the boxes");
}

inline BoxLevel level_of(const Tensor& map, void* data) {
  return {data,
          {static_cast<int32_t>(map.size(2)), static_cast<int32_t>(map.size(3))},
          is_channels_last(map)};
}

// Maps to read: dense in one of the two memory formats.
inline Tensors dense(const Tensors& maps, const Tensor& boxes, const char* name) {
  STD_TORCH_CHECK(!maps.empty(), name, " must not be empty");
  Tensors result;
  for (const Tensor& map : maps) {
    check_map(map, maps[0], boxes, name);
    result.push_back(is_channels_last(map) ? map : torch::stable::contiguous(map));
  }
  return result;
}

// New maps (batch, channels, height, width) of each (height, width) in `shapes`.
inline Tensors new_maps(const Tensor& like, const Ints& shapes, int64_t batch, int64_t channels,
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
      prefer_large_pages(maps.back().mutable_data_ptr(),
                         maps.back().numel() * maps.back().element_size());
  }
  return maps;
}

// The maps from `first` on, at most kMaxLevels of them.
inline BoxLevels levels_of(const Tensors& maps, size_t first = 0) {
  BoxLevels levels{};
  const size_t end = std::min(maps.size(), first + kMaxLevels);
  for (size_t l = first; l < end; ++l)
    levels.level[levels.count++] = level_of(maps[l], const_cast<void*>(maps[l].const_data_ptr()));
  return levels;
}

// Runs `launch(levels, first level)` for at most kMaxLevels maps at a time.
template <class Launch>
void for_levels(const Tensors& maps, Launch launch) {
  for (size_t first = 0; first < maps.size(); first += kMaxLevels)
    launch(levels_of(maps, first), static_cast<int64_t>(first));
}

#ifdef SSSD_CUDA_LIBRARY
// Launches a problem on the GPU of its boxes.
template <class Problem>
void on_gpu(const char* (*launch)(const Problem&, void*, void*), const Problem& problem,
            int64_t workspace_bytes, const Tensor& boxes) {
  const torch::stable::accelerator::DeviceGuard guard(boxes.get_device_index());
  const Tensor workspace = torch::stable::new_empty(boxes, {&workspace_bytes, 1}, ScalarType::Byte);
  throw_if(launch(problem, workspace.mutable_data_ptr(), current_stream(boxes)));
}
#endif

template <class T>
T* offset(T* data, int64_t bytes) {
  return reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(data) + bytes);
}

}  // namespace sssd::glue
