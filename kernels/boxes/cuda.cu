#include "kernels/boxes/cuda.h"
#include "kernels/boxes/cuda_heatmap.cuh"
#include "kernels/boxes/cuda_paint.cuh"
#include "kernels/boxes/cuda_pool.cuh"

namespace sssd::boxes_cuda {
namespace {

constexpr int64_t kMostBlocks = 0x7fffffff;

int64_t divide_up(int64_t n, int64_t by) { return (n + by - 1) / by; }
int64_t channel_blocks(int64_t channels) { return divide_up(channels, kChannels); }

template <class Problem>
int64_t plane_size(const Problem& problem) {
  return problem.levels.count * problem.objects.count;
}

// Works the objects of a pool or paint out, or those of a heatmap.
template <class Problem>
cudaError_t prepare(const Problem& problem, int64_t blocks, Bits* planes, cudaStream_t stream) {
  return device::launch(spans_kernel, {blocks, kThreads}, stream, problem.levels, problem.objects,
                        problem.batch, planes);
}
cudaError_t prepare(const HeatmapProblem& problem, int64_t blocks, Bits* planes,
                    cudaStream_t stream) {
  return device::launch(stamps_kernel, {blocks, kThreads}, stream, problem, planes);
}

// Works the objects out and launches `blocks` that read them:
// launch(element type, shape, stream, planes).
template <class Problem, class Launch>
const char* run(const Problem& problem, int64_t blocks, void* workspace, void* stream_pointer,
                Launch launch) {
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  auto* const planes = static_cast<Bits*>(workspace);
  const int64_t before = divide_up(plane_size(problem), kThreads);
  if (blocks > kMostBlocks || before > kMostBlocks)
    return "the maps and boxes need more blocks than one launch can take";
  if (problem.dtype == Dtype::f64) return "the CUDA kernels do not compute in float64";
  if (blocks == 0) return nullptr;
  cudaError_t error = before > 0 ? prepare(problem, before, planes, stream) : cudaSuccess;
  if (error != cudaSuccess) return device::message(error);
  const device::Shape shape{blocks, kThreads};
  if (problem.dtype == Dtype::f32) error = launch(Float32(), shape, stream, planes);
  if (problem.dtype == Dtype::bf16) error = launch(BFloat16(), shape, stream, planes);
  if (problem.dtype == Dtype::f16) error = launch(Float16(), shape, stream, planes);
  return device::message(error);
}

}  // namespace

int64_t workspace_bytes(const PoolProblem& problem) {
  return kSpanPlanes * plane_size(problem) * int64_t{sizeof(Bits)};
}
int64_t workspace_bytes(const PaintProblem& problem) {
  return kSpanPlanes * plane_size(problem) * int64_t{sizeof(Bits)};
}
int64_t workspace_bytes(const HeatmapProblem& problem) {
  return kStampPlanes * plane_size(problem) * int64_t{sizeof(Bits)};
}

const char* pool(const PoolProblem& problem, void* workspace, void* stream) {
  const int64_t blocks = channel_blocks(problem.channels) * plane_size(problem);
  return run(problem, blocks, workspace, stream,
             [&](auto of, const device::Shape& shape, cudaStream_t on, const Bits* spans) {
               return device::launch(pool_kernel<decltype(of)>, shape, on, problem, spans);
             });
}

const char* paint(const PaintProblem& problem, void* workspace, void* stream) {
  const TilePlan plan(problem.levels, problem.batch * channel_blocks(problem.channels));
  return run(problem, plan.blocks(problem.levels), workspace, stream,
             [&](auto of, const device::Shape& shape, cudaStream_t on, const Bits* spans) {
               return device::launch(paint_kernel<decltype(of)>, shape, on, problem, plan, spans);
             });
}

const char* heatmap(const HeatmapProblem& problem, void* workspace, void* stream) {
  const TilePlan plan(problem.levels, problem.batch * class_blocks(problem.classes));
  return run(problem, plan.blocks(problem.levels), workspace, stream,
             [&](auto of, const device::Shape& shape, cudaStream_t on, const Bits* stamps) {
               return device::launch(heatmap_kernel<decltype(of)>, shape, on, problem, plan,
                                     stamps);
             });
}

}  // namespace sssd::boxes_cuda
