#include "kernels/boxes/cuda.h"
#include "kernels/boxes/cuda_embed.cuh"
#include "kernels/boxes/cuda_heatmap.cuh"
#include "kernels/boxes/cuda_paint.cuh"
#include "kernels/boxes/cuda_pool.cuh"

namespace sssd::boxes_cuda {
namespace {

constexpr int64_t kMostBlocks = 0x7fffffff;

int64_t channel_blocks(int64_t channels) { return (channels + kChannels - 1) / kChannels; }

TilePlan strips_of(const EmbedProblem& problem) {
  return {problem.heatmap.levels, problem.heatmap.classes * channel_blocks(problem.channels), true};
}

template <class Launch>
const char* by_dtype(Dtype dtype, int64_t blocks, Launch launch) {
  if (blocks > kMostBlocks) return "the maps need more blocks than one launch can take";
  if (blocks == 0) return nullptr;
  switch (dtype) {
    case Dtype::f32:
      return device::message(launch(Float32()));
    case Dtype::bf16:
      return device::message(launch(BFloat16()));
    case Dtype::f16:
      return device::message(launch(Float16()));
    default:
      return "the CUDA kernels do not compute in float64";
  }
}

}  // namespace

const char* pool(const PoolProblem& problem, void* stream_pointer) {
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  const int64_t blocks =
      channel_blocks(problem.channels) * problem.levels.count * problem.objects.count;
  return by_dtype(problem.dtype, blocks, [&](auto of) {
    return device::launch(pool_kernel<decltype(of)>, {blocks, kThreads}, stream, problem);
  });
}

const char* paint(const PaintProblem& problem, void* stream_pointer) {
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  const TilePlan plan(problem.levels, problem.batch * channel_blocks(problem.channels));
  return by_dtype(problem.dtype, plan.blocks(problem.levels), [&](auto of) {
    return device::launch(paint_kernel<decltype(of)>, {plan.blocks(problem.levels), kThreads},
                          stream, problem, plan);
  });
}

const char* heatmap(const HeatmapProblem& problem, void* stream_pointer) {
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  const TilePlan plan(problem.levels, problem.batch * problem.classes);
  return by_dtype(problem.dtype, plan.blocks(problem.levels), [&](auto of) {
    return device::launch(heatmap_kernel<decltype(of)>, {plan.blocks(problem.levels), kThreads},
                          stream, problem, plan);
  });
}

const char* embed(const EmbedProblem& problem, void* stream_pointer) {
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  const HeatmapProblem& heatmap = problem.heatmap;
  const TilePlan plan(heatmap.levels, heatmap.batch * channel_blocks(problem.channels));
  return by_dtype(heatmap.dtype, plan.blocks(heatmap.levels), [&](auto of) {
    return device::launch(embed_kernel<decltype(of)>, {plan.blocks(heatmap.levels), kThreads},
                          stream, problem, plan);
  });
}

int64_t embed_backward_workspace(const EmbedProblem& problem) {
  const TilePlan plan = strips_of(problem);
  if (plan.depth == 0) return 0;
  return plan.blocks(problem.heatmap.levels) / plan.depth * problem.heatmap.classes *
         problem.channels;
}

const char* embed_backward(const EmbedProblem& problem, float* workspace, void* stream_pointer) {
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  const TilePlan plan = strips_of(problem);
  const int64_t blocks = plan.blocks(problem.heatmap.levels);
  const int64_t count = problem.heatmap.classes * problem.channels;
  return by_dtype(problem.heatmap.dtype, blocks, [&](auto of) {
    const cudaError_t error = device::launch(embed_backward_kernel<decltype(of)>,
                                             {blocks, kThreads}, stream, problem, plan, workspace);
    if (error != cudaSuccess) return error;
    return device::launch(add_strips_kernel<decltype(of)>,
                          {(count + kThreads - 1) / kThreads, kThreads}, stream, workspace,
                          blocks / plan.depth, count, problem.embedding);
  });
}

}  // namespace sssd::boxes_cuda
