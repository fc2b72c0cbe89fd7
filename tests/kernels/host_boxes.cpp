// The CUDA launchers of the box operators, run on the CPU, for Python. Tests only.
#include "kernels/boxes/cuda.h"
#include "tests/kernels/emulator.h"

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

EmbedProblem embed_of(const py::dict& given) {
  return {heatmap_of(given), pointer(given, "embedding"), number<int64_t>(given, "channels")};
}

}  // namespace

PYBIND11_MODULE(SSSD_MODULE, module) {
  module.def("pool", [](const py::dict& given) {
    throw_if(boxes_cuda::pool({levels_of(given), objects_of(given), pointer(given, "pooled"),
                               Dtype(number<int>(given, "dtype")), number<int64_t>(given, "batch"),
                               number<int64_t>(given, "channels"), number<bool>(given, "mean")},
                              nullptr));
  });
  module.def("paint", [](const py::dict& given) {
    throw_if(boxes_cuda::paint({levels_of(given), objects_of(given), pointer(given, "values"),
                                number<int64_t>(given, "value_level_stride"),
                                Dtype(number<int>(given, "dtype")), number<int64_t>(given, "batch"),
                                number<int64_t>(given, "channels"), number<bool>(given, "mean")},
                               nullptr));
  });
  module.def("heatmap", [](const py::dict& given) {
    throw_if(boxes_cuda::heatmap(heatmap_of(given), nullptr));
  });
  module.def("embed",
             [](const py::dict& given) { throw_if(boxes_cuda::embed(embed_of(given), nullptr)); });
  module.def("embed_backward", [](const py::dict& given) {
    const EmbedProblem problem = embed_of(given);
    std::vector<float> workspace(boxes_cuda::embed_backward_workspace(problem), NAN);
    throw_if(boxes_cuda::embed_backward(problem, workspace.data(), nullptr));
  });
  bind_emulator(module);
}
