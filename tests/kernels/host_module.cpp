// The CUDA launchers of the divergence operator, run on the CPU, for Python. Tests only.
#include "kernels/divergence/members.h"
#include "tests/kernels/emulator/binding.h"

namespace py = pybind11;
using namespace sssd;
using namespace sssd::divergence;

namespace {

Levels levels_of(const py::list& list, int student_dtype, int teacher_dtype) {
  Levels levels{};
  levels.student_dtype = Dtype(student_dtype);
  levels.teacher_dtype = Dtype(teacher_dtype);
  for (const auto& item : list) {
    const auto entry = py::cast<py::dict>(item);
    const auto number = [&](const char* name) { return entry[name].cast<int64_t>(); };
    const auto pointer = [&](const char* name) { return reinterpret_cast<void*>(number(name)); };
    Level& level = levels.level[levels.count++];
    level = level_of(Over(number("over")), number("images"), number("channels"), number("cells"),
                     number("channels_last") != 0);
    level.student = pointer("student"), level.teacher = pointer("teacher");
    level.grad_student = pointer("grad_student"), level.grad_teacher = pointer("grad_teacher");
    level.weights = static_cast<const float*>(pointer("weights"));
    if (entry.contains("outer_stride")) level.outer_stride = number("outer_stride");
    level.row0 = levels.rows;
    levels.rows += level.rows();
  }
  return levels;
}

Settings settings_of(const py::dict& given) {
  Settings settings{};
  settings.normalize = Normalize(given["normalize"].cast<int>());
  settings.measure = Measure(given["divergence"].cast<int>());
  settings.root = Root(given["root"].cast<int>());
  settings.rows = Rows(given["rows"].cast<int>());
  settings.elements = Elements(given["elements"].cast<int>());
  settings.unbiased = given["unbiased"].cast<bool>();
  settings.temperature = given["temperature"].cast<double>();
  settings.eps = given["eps"].cast<double>();
  return settings;
}

float* floats(uintptr_t address) { return reinterpret_cast<float*>(address); }

}  // namespace

PYBIND11_MODULE(SSSD_MODULE, module) {
  module.def("sizes", [](const py::list& list, int a, int b, const py::dict& settings) {
    const Levels levels = levels_of(list, a, b);
    int64_t floats = 0;
    throw_if(cuda_workspace(levels, settings_of(settings), floats));
    return py::make_tuple(levels.rows, saved_planes(settings_of(settings)), floats);
  });
  module.def("forward",
             [](const py::list& list, int a, int b, const py::dict& settings, uintptr_t saved,
                uintptr_t values, uintptr_t factors, uintptr_t workspace) {
               throw_if(cuda_forward(levels_of(list, a, b), settings_of(settings), floats(saved),
                                     floats(values), floats(factors), floats(workspace), nullptr));
             });
  module.def("backward", [](const py::list& list, int a, int b, const py::dict& settings,
                            uintptr_t saved, uintptr_t factors, uintptr_t grad_values) {
    throw_if(cuda_backward(levels_of(list, a, b), settings_of(settings), floats(saved),
                           floats(factors), floats(grad_values), nullptr));
  });
  bind_emulator(module);
}
