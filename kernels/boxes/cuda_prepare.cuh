// What the tiles of a call ask of its objects, worked out once, before them. The geometry is in
// double precision, which most GPUs have at 1/64 of the rate: no other kernel uses it.
#pragma once

#include <cfloat>

#include "kernels/boxes/cuda_tile.cuh"
#include "kernels/boxes/stamp.h"

namespace sssd::boxes_cuda {

// Four numbers of each object on each level, a plane (P, T) of the workspace; and how many planes.
using device::Bits;
constexpr int kSpanPlanes = 1;   // the covered cells; none if the object is in no image
constexpr int kStampPlanes = 3;  // the same, then centre and scale, two floats for each number

__device__ __forceinline__ CellSpan read_span(const Bits* plane, int64_t at) {
  const Bits span = device::load(plane + at);
  return {static_cast<int32_t>(span.word[0]), static_cast<int32_t>(span.word[1]),
          static_cast<int32_t>(span.word[2]), static_cast<int32_t>(span.word[3])};
}
__device__ __forceinline__ void write_span(Bits* plane, int64_t at, const CellSpan& span) {
  device::store(plane + at,
                Bits{{static_cast<uint32_t>(span.left), static_cast<uint32_t>(span.right),
                      static_cast<uint32_t>(span.top), static_cast<uint32_t>(span.bottom)}});
}

// A number as the sum of two floats, which hold 48 of its bits. What no float holds is brought to
// the largest: it belongs to a box that is far larger, or far smaller, than the map.
__device__ __forceinline__ void split(double number, uint32_t* words) {
  const double most = FLT_MAX;
  number = number > most ? most : number < -most ? -most : number;
  const float high = static_cast<float>(number);
  words[0] = device::bits_of_float(high);
  words[1] = device::bits_of_float(static_cast<float>(number - high));
}

// A thread takes one object on one level.
__global__ void __launch_bounds__(kThreads, kBlocks)
    spans_kernel(const __grid_constant__ BoxLevels levels,
                 const __grid_constant__ PackedObjects objects, int64_t batch, Bits* planes) {
  const int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (at >= levels.count * objects.count) return;
  const int64_t t = at % objects.count, image = objects.image_of(t);
  CellSpan span = {0, 0, 0, 0};
  if (image >= 0 && image < batch)
    span = cell_span(objects.box(t), objects.image, levels.level[at / objects.count].size);
  write_span(planes, at, span);
}

// A pyramid's centre is in units of its own size, so that the largest boxes stay finite.
__global__ void __launch_bounds__(kThreads, kBlocks)
    stamps_kernel(const __grid_constant__ HeatmapProblem problem, Bits* planes) {
  const int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t count = problem.objects.count, plane = problem.levels.count * count;
  if (at >= plane) return;
  const Stamp stamp = stamp_of(problem, static_cast<int>(at / count), at % count);
  const bool pyramid = problem.profile == Profile::pyramid;
  Bits centre, scale;
  split(pyramid ? stamp.row / stamp.row_scale : stamp.row, centre.word);
  split(pyramid ? stamp.column / stamp.column_scale : stamp.column, centre.word + 2);
  split(1 / stamp.row_scale, scale.word);
  split(1 / stamp.column_scale, scale.word + 2);
  write_span(planes, at, stamp.window);
  device::store(planes + plane + at, centre);
  device::store(planes + 2 * plane + at, scale);
}

}  // namespace sssd::boxes_cuda
