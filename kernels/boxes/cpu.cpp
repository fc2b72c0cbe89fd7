// The box kernels for one set of instructions: compiled once for each, with SSSD_ISA its name.
#include "kernels/boxes/cpu.h"

#include "kernels/boxes/heatmap_cpu.h"
#include "kernels/boxes/paint_cpu.h"
#include "kernels/boxes/pool_cpu.h"

namespace sssd::boxes_cpu::SSSD_ISA {

// kernel(T{}) with the type of a dtype.
template <class Kernel>
void by_dtype(Dtype dtype, Kernel kernel) {
  switch (dtype) {
    case Dtype::f32:
      return kernel(float{});
    case Dtype::f64:
      return kernel(double{});
    case Dtype::bf16:
      return kernel(BFloat16{});
    case Dtype::f16:
      return kernel(Half{});
  }
}

const Kernels kernels = {
    [](const PoolProblem& problem, const Objects& objects, ParallelFor parallel) {
      by_dtype(problem.dtype, [&](auto of) { pool<decltype(of)>(problem, objects, parallel); });
    },
    [](const PaintProblem& problem, const Objects& objects, ParallelFor parallel) {
      by_dtype(problem.dtype, [&](auto of) { paint<decltype(of)>(problem, objects, parallel); });
    },
    [](const HeatmapProblem& problem, const Objects& objects, ParallelFor parallel) {
      by_dtype(problem.dtype, [&](auto of) { heatmap<decltype(of)>(problem, objects, parallel); });
    }};

}  // namespace sssd::boxes_cpu::SSSD_ISA
