#include "kernels/boxes/cuda.h"
#include "kernels/boxes/cuda_heatmap.cuh"
#include "kernels/boxes/cuda_paint.cuh"
#include "kernels/boxes/cuda_pool.cuh"

namespace sssd::boxes_cuda {
namespace {

constexpr int64_t kMostBlocks = 0x7fffffff;

int64_t divide_up(int64_t n, int64_t by) { return (n + by - 1) / by; }
int64_t channel_blocks(int64_t channels) { return divide_up(channels, kChannels); }

// Null, or why CUDA refused the launch before this.
const char* refused() {
#ifdef SSSD_HOST_CUDA
  return nullptr;
#else
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
#endif
}

// Works the objects of a pool or paint out, or those of a heatmap.
template <class Problem>
void prepare(const Problem& problem, int64_t blocks, Bits* planes, cudaStream_t stream) {
  SSSD_LAUNCH(spans_kernel, blocks, kThreads, 0, stream, problem.levels, problem.objects,
              problem.batch, planes);
}
template <>
void prepare(const HeatmapProblem& problem, int64_t blocks, Bits* planes, cudaStream_t stream) {
  SSSD_LAUNCH(stamps_kernel, blocks, kThreads, 0, stream, problem, planes);
}

int64_t plane_size(const BoxLevels& levels, const PackedObjects& objects) {
  return levels.count * objects.count;
}

// Works the objects out and launches `blocks` that read them: launch(element type, stream, planes).
template <class Problem, class Launch>
const char* run(const Problem& problem, int64_t blocks, void* workspace, void* stream_pointer,
                Launch launch) {
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  auto* const planes = static_cast<Bits*>(workspace);
  const int64_t before = divide_up(plane_size(problem.levels, problem.objects), kThreads);
  if (blocks > kMostBlocks || before > kMostBlocks)
    return "the maps and boxes need more blocks than one launch can take";
  if (problem.dtype == Dtype::f64) return "the CUDA kernels do not compute in float64";
  if (blocks == 0) return nullptr;
  if (before > 0) {
    prepare(problem, before, planes, stream);
    if (const char* error = refused()) return error;
  }
  if (problem.dtype == Dtype::f32) launch(Float32(), stream, planes);
  if (problem.dtype == Dtype::bf16) launch(BFloat16(), stream, planes);
  if (problem.dtype == Dtype::f16) launch(Float16(), stream, planes);
  return refused();
}

}  // namespace

int64_t workspace_bytes(const PoolProblem& problem) {
  return kSpanPlanes * plane_size(problem.levels, problem.objects) * int64_t{sizeof(Bits)};
}
int64_t workspace_bytes(const PaintProblem& problem) {
  return kSpanPlanes * plane_size(problem.levels, problem.objects) * int64_t{sizeof(Bits)};
}
int64_t workspace_bytes(const HeatmapProblem& problem) {
  return kStampPlanes * plane_size(problem.levels, problem.objects) * int64_t{sizeof(Bits)};
}

const char* pool(const PoolProblem& problem, void* workspace, void* stream) {
  const int64_t blocks =
      channel_blocks(problem.channels) * plane_size(problem.levels, problem.objects);
  return run(problem, blocks, workspace, stream, [&](auto of, cudaStream_t on, const Bits* spans) {
    SSSD_LAUNCH(pool_kernel<decltype(of)>, blocks, kThreads, 0, on, problem, spans);
  });
}

const char* paint(const PaintProblem& problem, void* workspace, void* stream) {
  const TilePlan plan(problem.levels, problem.batch * channel_blocks(problem.channels));
  const int64_t blocks = plan.blocks(problem.levels);
  return run(problem, blocks, workspace, stream, [&](auto of, cudaStream_t on, const Bits* spans) {
    SSSD_LAUNCH(paint_kernel<decltype(of)>, blocks, kThreads, 0, on, problem, plan, spans);
  });
}

const char* heatmap(const HeatmapProblem& problem, void* workspace, void* stream) {
  const TilePlan plan(problem.levels, problem.batch * problem.classes);
  const int64_t blocks = plan.blocks(problem.levels);
  return run(problem, blocks, workspace, stream, [&](auto of, cudaStream_t on, const Bits* stamps) {
    SSSD_LAUNCH(heatmap_kernel<decltype(of)>, blocks, kThreads, 0, on, problem, plan, stamps);
  });
}

}  // namespace sssd::boxes_cuda
