#include "kernels/boxes/cuda.h"
#include "kernels/boxes/cuda_heatmap.cuh"
#include "kernels/boxes/cuda_paint.cuh"
#include "kernels/boxes/cuda_pool.cuh"

namespace sssd::boxes_cuda {
namespace {

constexpr int64_t kMostBlocks = 0x7fffffff;

template <class Launch>
const char* by_dtype(Dtype dtype, int64_t blocks, Launch launch) {
  if (blocks > kMostBlocks) return "the maps need more blocks than one launch can take";
  if (blocks > 0) {
    switch (dtype) {
      case Dtype::f32:
        launch(Float32());
        break;
      case Dtype::bf16:
        launch(BFloat16());
        break;
      case Dtype::f16:
        launch(Float16());
        break;
      default:
        return "the CUDA kernels do not compute in float64";
    }
  }
#ifdef SSSD_HOST_CUDA
  return nullptr;
#else
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
#endif
}

}  // namespace

const char* pool(const PoolProblem& problem, void* stream_pointer) {
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  const int64_t blocks =
      (problem.channels + kChannels - 1) / kChannels * problem.levels.count * problem.objects.count;
  return by_dtype(problem.dtype, blocks, [&](auto of) {
    SSSD_LAUNCH(pool_kernel<decltype(of)>, blocks, kThreads, 0, stream, problem);
  });
}

const char* paint(const PaintProblem& problem, void* stream_pointer) {
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  const TilePlan plan(problem.levels,
                      problem.batch * ((problem.channels + kChannels - 1) / kChannels));
  return by_dtype(problem.dtype, plan.blocks(problem.levels), [&](auto of) {
    SSSD_LAUNCH(paint_kernel<decltype(of)>, plan.blocks(problem.levels), kThreads, 0, stream,
                problem, plan);
  });
}

const char* heatmap(const HeatmapProblem& problem, void* stream_pointer) {
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  const TilePlan plan(problem.levels, problem.batch * problem.classes);
  return by_dtype(problem.dtype, plan.blocks(problem.levels), [&](auto of) {
    SSSD_LAUNCH(heatmap_kernel<decltype(of)>, plan.blocks(problem.levels), kThreads, 0, stream,
                problem, plan);
  });
}

}  // namespace sssd::boxes_cuda
