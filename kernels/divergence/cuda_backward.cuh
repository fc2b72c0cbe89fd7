// The backward kernel: one sweep, from the planes that forward saved.
#pragma once

#include "kernels/divergence/cuda_tile.cuh"
#include "kernels/divergence/members.h"

namespace sssd::divergence {

template <class Member, bool kStrided>
__global__ void __launch_bounds__(kBackwardThreads, kStrided ? kBlocks<Member> : kBackwardBlocks)
    backward_kernel(const __grid_constant__ Launch launch) {
  SSSD_DYNAMIC_SHARED(
      stage);  // the saved planes of the tile's rows, and what scales their gradient
  using TileT = Tile<kStrided>;
  constexpr int kRows = TileT::kRows;
  const int l = launch.levels.find(blockIdx.x);
  const TileT tile(launch, l);
  const Level& level = tile.level;
  const Constants<float>& constants = tile.plan.constants;
  for (int r = threadIdx.x; r < tile.rows_left; r += blockDim.x) {
    const int64_t number = tile.level_row(r);
    const float* saved = launch.saved + level.row0 + number;
    for (int p = 0; p < launch.planes; ++p)
      stage[p * tile.rows + r] = device::load(saved + p * launch.levels.rows);
    const auto row = Member::template load<float>(
        constants, [&](int plane) { return stage[plane * tile.rows + r]; });
    const float weight = level.weights ? device::load(level.weights + number) : 1.0f;
    const float slope =
        contribution_slope(launch.settings.root, tile.plan.element_scale, row.value);
    const float outer = device::load(launch.factors + tile.plan.index) *
                        device::load(launch.grad_values + tile.plan.index);
    stage[launch.planes * tile.rows + r] =
        weighted(weight, slope * outer * constants.gradient_scale);
  }
  __syncthreads();
  typename Member::template Row<float> row[kRows];
  float scale[kRows];
#pragma unroll
  for (int j = 0; j < kRows; ++j) {
    const int r = min(tile.tile_row(j), tile.rows_left - 1);
    row[j] = Member::template load<float>(constants,
                                          [&](int plane) { return stage[plane * tile.rows + r]; });
    scale[j] = stage[launch.planes * tile.rows + r];
  }
  Chunk<kStrided, false> chunk;
  const int steps = tile.steps();
#pragma unroll 1
  for (int first = 0; first < steps; first += tile.vectors()) {
    chunk.load(launch, tile, first, nullptr);
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      const auto gradient = Member::gradient(constants, row[i % kRows], chunk.a[i], chunk.b[i]);
      chunk.a[i] = weighted(scale[i % kRows], gradient.a);
      chunk.b[i] = weighted(scale[i % kRows], gradient.b);
    }
    Fragment fragment;
    if (level.grad_student) {
      fragment.narrow(launch.levels.student_dtype, chunk.a);
      fragment.store(tile, level.grad_student, launch.levels.student_dtype, first);
    }
    if (level.grad_teacher) {
      fragment.narrow(launch.levels.teacher_dtype, chunk.b);
      fragment.store(tile, level.grad_teacher, launch.levels.teacher_dtype, first);
    }
  }
}

}  // namespace sssd::divergence
