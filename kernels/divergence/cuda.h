// The divergence operator on CUDA: raw pointers of the current device, and a stream.
//
// Each takes the levels of a call (at most kMaxLevels; `tile0` and `tiles` are set here) and
// returns null, or a message about what CUDA refused. Nothing synchronises with the host.
#pragma once

#include "kernels/divergence/divergence.h"

namespace sssd::divergence {

// Sets the floats of workspace that forward needs.
const char* cuda_workspace(const Levels& levels, const Settings& settings, int64_t& floats);

// Writes saved [saved_planes][levels.rows], values [levels.count] and factors [levels.count].
const char* cuda_forward(const Levels& levels, const Settings& settings, float* saved,
                         float* values, float* factors, float* workspace, void* stream);

// Writes the gradients that the levels ask for, given d loss / d values.
const char* cuda_backward(const Levels& levels, const Settings& settings, const float* saved,
                          const float* factors, const float* grad_values, void* stream);

}  // namespace sssd::divergence
