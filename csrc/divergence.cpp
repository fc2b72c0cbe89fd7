// The divergence operator for torch: rows of a list of maps, allocation, and the kernels' launch.
// Its schemas are in sssd/ops/divergence_kernels.py, which also words the errors a user sees.
#include <algorithm>
#include <tuple>
#include <vector>

#include "csrc/glue.h"
#include "kernels/divergence/members.h"

namespace {

using namespace sssd;
using namespace sssd::glue;
using divergence::Settings;
using Tensors = std::vector<Tensor>;

// The maps of one call as launches of at most kMaxLevels levels, with a shared set of saved planes.
struct Call {
  std::vector<Levels> launches;
  Settings settings;
  int64_t rows = 0;
  bool wide;  // in double

  Call(const Tensors& student, const Tensors& teacher, const Tensors& weights, int64_t over,
       int64_t normalize, int64_t measure, int64_t root, int64_t rows_how, int64_t elements,
       bool unbiased, double temperature, double eps)
      : settings{divergence::Normalize(normalize),
                 divergence::Measure(measure),
                 divergence::Root(root),
                 divergence::Rows(rows_how),
                 divergence::Elements(elements),
                 unbiased,
                 temperature,
                 eps} {
    STD_TORCH_CHECK(!student.empty() && student.size() == teacher.size(),
                    "student and teacher must hold the same number of levels, at least one");
    STD_TORCH_CHECK(weights.empty() || weights.size() == student.size(),
                    "row_weights must hold one tensor a level, or none");
    wide = dtype_of(student[0]) == Dtype::f64 || dtype_of(teacher[0]) == Dtype::f64;
    for (size_t l = 0; l < student.size(); ++l) {
      check(student, teacher, l);
      if (l % kMaxLevels == 0) {
        launches.emplace_back();
        launches.back().student_dtype = dtype_of(student[0]);
        launches.back().teacher_dtype = dtype_of(teacher[0]);
      }
      const Tensor& map = student[l];
      Level level = level_of(divergence::Over(over), map.size(0), map.size(1),
                             map.size(2) * map.size(3), is_channels_last(map));
      level.student = student[l].const_data_ptr();
      level.teacher = teacher[l].const_data_ptr();
      if (!weights.empty()) level.weights = weights_of(weights[l], level, map);
      level.row0 = rows;
      rows += level.rows();
      launches.back().level[launches.back().count++] = level;
    }
    for (Levels& levels : launches) levels.rows = rows;
  }

  static void check(const Tensors& student, const Tensors& teacher, size_t l) {
    const auto a = student[l].sizes(), b = teacher[l].sizes();
    STD_TORCH_CHECK(a.size() == 4 && std::equal(a.begin(), a.end(), b.begin(), b.end()), "level ",
                    l, ": student and teacher must both be (B, C, H, W)");
    STD_TORCH_CHECK(dtype_of(student[l]) == dtype_of(student[0]) &&
                        dtype_of(teacher[l]) == dtype_of(teacher[0]),
                    "level ", l, ": one dtype for all levels of a side");
    STD_TORCH_CHECK(student[l].get_device_index() == student[0].get_device_index() &&
                        teacher[l].get_device_index() == student[0].get_device_index() &&
                        student[l].is_cuda() == teacher[l].is_cuda(),
                    "level ", l, ": all maps must be on one device");
    const bool contiguous = student[l].is_contiguous() && teacher[l].is_contiguous();
    STD_TORCH_CHECK(
        contiguous || (is_channels_last(student[l]) && is_channels_last(teacher[l])), "level ", l,
        ": student and teacher must share a memory format, contiguous or channels_last");
  }

  static const float* weights_of(const Tensor& weights, const Level& level, const Tensor& map) {
    STD_TORCH_CHECK(weights.scalar_type() == ScalarType::Float && weights.is_contiguous() &&
                        weights.numel() == level.rows() && weights.device() == map.device(),
                    "row_weights must be contiguous float32, one a row, on the maps' device");
    return static_cast<const float*>(weights.const_data_ptr());
  }

  ScalarType value_type() const { return wide ? ScalarType::Double : ScalarType::Float; }

  void want_gradients(const Tensors& student, const Tensors& teacher) {
    for (size_t l = 0; l < student.size() || l < teacher.size(); ++l) {
      Level& level = launches[l / kMaxLevels].level[l % kMaxLevels];
      if (l < student.size()) level.grad_student = student[l].mutable_data_ptr();
      if (l < teacher.size()) level.grad_teacher = teacher[l].mutable_data_ptr();
    }
  }
};

// f(levels, index of the first level) for each launch.
template <class F>
void each_launch(const Call& call, F&& f) {
  for (size_t i = 0; i < call.launches.size(); ++i) f(call.launches[i], i * kMaxLevels);
}

template <class T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

#ifdef SSSD_CUDA_LIBRARY
void run_forward(const Call& call, const Tensor& like, const Tensor& values, const Tensor& factors,
                 const Tensor& saved) {
  const torch::stable::accelerator::DeviceGuard guard(like.get_device_index());
  void* stream = current_stream(like);
  each_launch(call, [&](const Levels& levels, size_t first) {
    int64_t floats = 0;
    throw_if(divergence::cuda_workspace(levels, call.settings, floats));
    const Tensor workspace = torch::stable::new_empty(like, {floats}, ScalarType::Float);
    throw_if(divergence::cuda_forward(levels, call.settings, data<float>(saved),
                                      data<float>(values) + first, data<float>(factors) + first,
                                      data<float>(workspace), stream));
  });
}

void run_backward(const Call& call, const Tensor& grad_values, const Tensor& factors,
                  const Tensor& saved) {
  const torch::stable::accelerator::DeviceGuard guard(saved.get_device_index());
  void* stream = current_stream(saved);
  each_launch(call, [&](const Levels& levels, size_t first) {
    throw_if(divergence::cuda_backward(levels, call.settings, data<float>(saved),
                                       data<float>(factors) + first,
                                       data<float>(grad_values) + first, stream));
  });
}
#else
template <class T>
void forward_in(const Call& call, const Tensor& like, const Tensor& values, const Tensor& factors,
                const Tensor& saved) {
  const divergence::CpuKernels<T>& kernels = divergence::cpu_kernels<T>();
  each_launch(call, [&](const Levels& levels, size_t first) {
    const Tensor workspace = torch::stable::new_empty(
        like, {kernels.workspace_bytes(levels, call.settings)}, ScalarType::Byte);
    kernels.forward({levels, call.settings, data<T>(values) + first, data<T>(factors) + first,
                     data<T>(saved), workspace.mutable_data_ptr(), parallel_tasks});
  });
}

template <class T>
void backward_in(const Call& call, const Tensor& grad_values, const Tensor& factors,
                 const Tensor& saved) {
  each_launch(call, [&](const Levels& levels, size_t first) {
    divergence::cpu_kernels<T>().backward({levels, call.settings, data<T>(grad_values) + first,
                                           data<T>(factors) + first, data<T>(saved),
                                           parallel_tasks});
  });
}

void run_forward(const Call& call, const Tensor& like, const Tensor& values, const Tensor& factors,
                 const Tensor& saved) {
  if (call.wide)
    forward_in<double>(call, like, values, factors, saved);
  else
    forward_in<float>(call, like, values, factors, saved);
}

void run_backward(const Call& call, const Tensor& grad_values, const Tensor& factors,
                  const Tensor& saved) {
  if (call.wide)
    backward_in<double>(call, grad_values, factors, saved);
  else
    backward_in<float>(call, grad_values, factors, saved);
}
#endif

std::tuple<Tensor, Tensor, Tensor> divergence_forward(Tensors student, Tensors teacher,
                                                      Tensors row_weights, int64_t over,
                                                      int64_t normalize, int64_t measure,
                                                      int64_t root, int64_t rows, int64_t elements,
                                                      bool unbiased, double temperature,
                                                      double eps) {
  const Call call(student, teacher, row_weights, over, normalize, measure, root, rows, elements,
                  unbiased, temperature, eps);
  const Tensor& like = student[0];
  const int64_t levels = int64_t(student.size());
  const int64_t planes = divergence::saved_planes(call.settings);
  const Tensor values = torch::stable::new_empty(like, {levels}, call.value_type());
  const Tensor factors = torch::stable::new_empty(like, {levels}, call.value_type());
  const Tensor saved = torch::stable::new_empty(like, {planes, call.rows}, call.value_type());
  run_forward(call, like, values, factors, saved);
  return {values, factors, saved};
}

std::tuple<Tensors, Tensors> divergence_backward(Tensor grad_values, Tensors student,
                                                 Tensors teacher, Tensors row_weights,
                                                 Tensor factors, Tensor saved, int64_t over,
                                                 int64_t normalize, int64_t measure, int64_t root,
                                                 int64_t rows, int64_t elements, bool unbiased,
                                                 double temperature, double eps, bool need_student,
                                                 bool need_teacher) {
  Call call(student, teacher, row_weights, over, normalize, measure, root, rows, elements, unbiased,
            temperature, eps);
  const int64_t levels = int64_t(student.size());
  const auto device = student[0].device();
  STD_TORCH_CHECK(
      grad_values.device() == device && factors.device() == device && saved.device() == device,
      "grad_values, factors and saved must be on the maps' device");
  STD_TORCH_CHECK(grad_values.numel() == levels && grad_values.scalar_type() == call.value_type(),
                  "grad_values must hold one value a level");
  STD_TORCH_CHECK(factors.numel() == levels && factors.scalar_type() == call.value_type() &&
                      saved.numel() == divergence::saved_planes(call.settings) * call.rows &&
                      saved.scalar_type() == call.value_type() && factors.is_contiguous() &&
                      saved.is_contiguous(),
                  "factors and saved must be those of the forward pass");
  Tensors grad_student, grad_teacher;
  if (need_student)
    for (const Tensor& map : student) grad_student.push_back(new_like(map));
  if (need_teacher)
    for (const Tensor& map : teacher) grad_teacher.push_back(new_like(map));
  call.want_gradients(grad_student, grad_teacher);
  if (need_student || need_teacher)
    run_backward(call, torch::stable::contiguous(grad_values), factors, saved);
  return {grad_student, grad_teacher};
}

#ifndef SSSD_CUDA_LIBRARY
// How many planes forward saves; the first is the divergence of each row.
int64_t divergence_planes(int64_t normalize, int64_t measure) {
  Settings settings{};
  settings.normalize = divergence::Normalize(normalize);
  settings.measure = divergence::Measure(measure);
  settings.temperature = 1;
  return divergence::saved_planes(settings);
}
#endif

}  // namespace

#ifndef SSSD_CUDA_LIBRARY
SSSD_ON(CompositeExplicitAutograd, divergence_planes)
#endif
SSSD_OPERATOR(divergence_forward)
SSSD_OPERATOR(divergence_backward)
