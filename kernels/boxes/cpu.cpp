// The CPU kernels of all dtypes for one set of instructions: compiled once for each, with SSSD_ISA
// baseline, avx2 or avx512.
#include "kernels/boxes/embed_cpu.h"
#include "kernels/boxes/heatmap_cpu.h"
#include "kernels/boxes/paint_cpu.h"
#include "kernels/boxes/pool_cpu.h"

namespace sssd::boxes_cpu {
namespace {

// Calls run(T{}) with the type of a dtype.
template <class Run>
void by_dtype(Dtype dtype, Run run) {
  switch (dtype) {
    case Dtype::f32:
      return run(float{});
    case Dtype::f64:
      return run(double{});
    case Dtype::bf16:
      return run(BFloat16{});
    case Dtype::f16:
      return run(Half{});
  }
}

void pool(const PoolProblem& problem, const Objects& objects, int64_t begin, int64_t end) {
  by_dtype(problem.dtype, [&](auto of) { pool_run<decltype(of)>(problem, objects, begin, end); });
}
void paint(const PaintProblem& problem, const Objects& objects, int64_t begin, int64_t end) {
  by_dtype(problem.dtype, [&](auto of) { paint_run<decltype(of)>(problem, objects, begin, end); });
}
void heatmap(const HeatmapProblem& problem, const Objects& objects, int64_t begin, int64_t end) {
  by_dtype(problem.dtype,
           [&](auto of) { heatmap_run<decltype(of)>(problem, objects, begin, end); });
}
void embed(const EmbedProblem& problem, const Objects& objects, int64_t begin, int64_t end) {
  by_dtype(problem.heatmap.dtype,
           [&](auto of) { embed_run<decltype(of)>(problem, objects, begin, end); });
}
void embed_backward(const EmbedProblem& problem, const Objects& objects, int64_t begin,
                    int64_t end) {
  by_dtype(problem.heatmap.dtype,
           [&](auto of) { embed_backward_run<decltype(of)>(problem, objects, begin, end); });
}

}  // namespace

#define SSSD_JOIN(a, b) a##b
#define SSSD_KERNELS(isa) SSSD_JOIN(kernels_, isa)
const Kernels SSSD_KERNELS(SSSD_ISA) = {pool, paint, heatmap, embed, embed_backward};

}  // namespace sssd::boxes_cpu
