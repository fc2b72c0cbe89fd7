// The box operators on CUDA: raw pointers of the current device, and a stream.
//
// Each is one launch for all levels of a call (at most kMaxLevels), writes every element of its
// output, uses no atomics, and returns null or a message about what CUDA refused. Half-precision
// and float32.
#pragma once

#include "kernels/boxes/boxes.h"

namespace sssd::boxes_cuda {

const char* pool(const PoolProblem& problem, void* stream);
const char* paint(const PaintProblem& problem, void* stream);
const char* heatmap(const HeatmapProblem& problem, void* stream);

}  // namespace sssd::boxes_cuda
