// The kernel after forward: what the rows of a level come to.
#pragma once

#include "kernels/divergence/cuda_forward.cuh"

namespace sssd::divergence {

// One block a level: adds the tiles, or joins the pieces of the rows, always in the same order.
template <class Member, bool kStrided>
__global__ void __launch_bounds__(kFinishThreads)
    finish_kernel(const __grid_constant__ Launch launch) {
  SSSD_SHARED(float, warp_sums, [2][kFinishThreads / device::kWarp]);
  const Level& level = launch.levels.level[blockIdx.x];
  const LevelPlan& plan = launch.plan[blockIdx.x];
  const int64_t rows = level.rows();
  float total = 0.0f, weights = 0.0f;
  if (plan.pieces == 1) {
    const int64_t tiles = static_cast<int>(blockIdx.x) + 1 < launch.levels.count
                              ? launch.levels.level[blockIdx.x + 1].tile0 - level.tile0
                              : launch.levels.tiles - level.tile0;
    for (int64_t t = threadIdx.x; t < tiles; t += blockDim.x) {
      total += device::load(launch.tile_sums + 2 * (level.tile0 + t));
      weights += device::load(launch.tile_sums + 2 * (level.tile0 + t) + 1);
    }
  } else {
    using Stats = typename Member::template Stats<float>;
    for (int64_t r = threadIdx.x; r < rows; r += blockDim.x) {
      Stats a, b;
      typename Member::template Sums<float> sums, more;
      for (int64_t piece = 0; piece < plan.pieces; ++piece) {
        Stats other_a, other_b;
        RowStatistics<Stats, kStrided>::read_piece(launch, level, plan, r, piece, other_a, other_b);
        a.merge(other_a, plan.constants.scale), b.merge(other_b, plan.constants.scale);
        const float* from = launch.piece_sums + piece_slot<kStrided>(level, plan, r, piece);
        for (int n = 0; n < kParts<decltype(sums)>; ++n)
          part(more, n) = device::load(from + n * launch.slots);
        sums.add(more);
      }
      const auto row = Member::prepare(plan.constants, a, b);
      Member::save(plan.constants, row, sums, [&](int plane, float value) {
        device::store(launch.saved + plane * launch.levels.rows + level.row0 + r, value);
      });
      const float weight = level.weights ? device::load(level.weights + r) : 1.0f;
      const float value = Member::finish(plan.constants, row, sums);
      total += weighted(weight, contribution(launch.settings.root, plan.element_scale, value));
      weights += weight;
    }
  }
  total = warp_sum(total), weights = warp_sum(weights);
  const int warp = threadIdx.x / device::kWarp;
  if (threadIdx.x % device::kWarp == 0) warp_sums[0][warp] = total, warp_sums[1][warp] = weights;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kFinishThreads / device::kWarp; ++w)
    total += warp_sums[0][w], weights += warp_sums[1][w];
  if (!level.weights) weights = static_cast<float>(rows);
  const LevelValue<float> value = level_value(launch.settings, total, weights);
  device::store(launch.values + plan.index, value.value);
  device::store(launch.factors + plan.index, value.factor);
}

}  // namespace sssd::divergence
