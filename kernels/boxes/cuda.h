// The box operators on CUDA: raw pointers of the current device, and a stream.
//
// Each is one launch for all levels of a call (at most kMaxLevels), or two where it sums over them;
// it writes every element of its output, uses no atomics, and returns null or a message about what
// CUDA refused. Half-precision and float32.
#pragma once

#include "kernels/boxes/boxes.h"

namespace sssd::boxes_cuda {

const char* pool(const PoolProblem& problem, void* stream);
const char* paint(const PaintProblem& problem, void* stream);
const char* heatmap(const HeatmapProblem& problem, void* stream);
const char* embed(const EmbedProblem& problem, void* stream);
// Writes nothing if the levels have no cells. `workspace` holds so many floats.
int64_t embed_backward_workspace(const EmbedProblem& problem);
const char* embed_backward(const EmbedProblem& problem, float* workspace, void* stream);

}  // namespace sssd::boxes_cuda
