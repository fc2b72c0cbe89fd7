// The box operators on CUDA: raw pointers of the current device, and a stream.
//
// Each is two launches for all levels of a call (at most kMaxLevels), one that works the objects
// out and one that writes the output, every element of it. No atomics. Null is returned, or a
// message about what CUDA refused. Half-precision and float32.
#pragma once

#include "kernels/boxes/boxes.h"

namespace sssd::boxes_cuda {

// Of `workspace`, aligned to 16 bytes.
int64_t workspace_bytes(const PoolProblem& problem);
int64_t workspace_bytes(const PaintProblem& problem);
int64_t workspace_bytes(const HeatmapProblem& problem);

const char* pool(const PoolProblem& problem, void* workspace, void* stream);
const char* paint(const PaintProblem& problem, void* workspace, void* stream);
const char* heatmap(const HeatmapProblem& problem, void* workspace, void* stream);

}  // namespace sssd::boxes_cuda
