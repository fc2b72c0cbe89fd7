// The CUDA launchers of the box operators, run on the CPU, for Python. Tests only.
#include "kernels/boxes/cuda.h"
#include "tests/kernels/emulator/binding.h"

namespace py = pybind11;
using namespace sssd;

namespace {

template <class T = void>
T* pointer(const py::dict& given, const char* name) {
  return reinterpret_cast<T*>(given[name].cast<uintptr_t>());
}
template <class T>
T number(const py::dict& given, const char* name) {
  return given[name].cast<T>();
}

BoxLevels levels_of(const py::dict& given) {
  BoxLevels levels{};
  for (const auto& item : given["levels"].cast<py::list>()) {
    const auto level = py::cast<py::dict>(item);
    levels.level[levels.count++] = {pointer(level, "map"),
                                    {number<int>(level, "height"), number<int>(level, "width")},
                                    number<bool>(level, "channels_last")};
  }
  return levels;
}

PackedObjects objects_of(const py::dict& given) {
  return {pointer(given, "boxes"),
          pointer(given, "image_index"),
          number<bool>(given, "f64"),
          number<bool>(given, "i64"),
          number<int64_t>(given, "count"),
          {number<int>(given, "image_height"), number<int>(given, "image_width")}};
}

HeatmapProblem heatmap_of(const py::dict& given) {
  return {levels_of(given),
          objects_of(given),
          pointer(given, "labels"),
          pointer<const bool>(given, "assigned"),
          pointer<const float>(given, "strength"),
          Dtype(number<int>(given, "dtype")),
          number<int64_t>(given, "batch"),
          number<int64_t>(given, "classes"),
          Profile(number<int>(given, "profile")),
          Combine(number<int>(given, "combine")),
          number<double>(given, "min_overlap")};
}

// As torch's allocator on a device aligns it.
struct alignas(512) Page {
  float word[128];
};

// A workspace of NaN: what is read before it is written shows.
template <class Problem>
void run(const char* (*launch)(const Problem&, void*, void*), const Problem& problem) {
  Page empty;
  std::fill_n(empty.word, 128, NAN);
  std::vector<Page> workspace(boxes_cuda::workspace_bytes(problem) / sizeof(Page) + 1, empty);
  throw_if(launch(problem, workspace.data(), nullptr));
}

}  // namespace

PYBIND11_MODULE(SSSD_MODULE, module) {
  module.def("pool", [](const py::dict& given) {
    run(boxes_cuda::pool,
        PoolProblem{levels_of(given), objects_of(given), pointer(given, "pooled"),
                    Dtype(number<int>(given, "dtype")), number<int64_t>(given, "batch"),
                    number<int64_t>(given, "channels"), number<bool>(given, "mean")});
  });
  module.def("paint", [](const py::dict& given) {
    run(boxes_cuda::paint,
        PaintProblem{levels_of(given), objects_of(given), pointer(given, "values"),
                     number<int64_t>(given, "value_level_stride"),
                     Dtype(number<int>(given, "dtype")), number<int64_t>(given, "batch"),
                     number<int64_t>(given, "channels"), number<bool>(given, "mean")});
  });
  module.def("heatmap", [](const py::dict& given) { run(boxes_cuda::heatmap, heatmap_of(given)); });
  bind_emulator(module);
}
