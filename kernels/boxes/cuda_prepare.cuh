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
constexpr int kStampPlanes = 2;  // the same; then, as floats, how a profile runs over them

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

// Of a box that is far smaller than a cell no float holds the scale: the largest does, the box
// covers one cell.
__device__ __forceinline__ uint32_t word_of(double number) {
  return device::bits_of_float(static_cast<float>(number < FLT_MAX ? number : FLT_MAX));
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

// The second plane: where the first row and the first column of the window lie from the centre, and
// the two scales. A pyramid's are in units of its own size, so that the largest boxes stay finite;
// counted from the window, whose cells lie within half a size of the centre, a float loses nothing.
__global__ void __launch_bounds__(kThreads, kBlocks)
    stamps_kernel(const __grid_constant__ HeatmapProblem problem, Bits* planes) {
  const int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t count = problem.objects.count, plane = problem.levels.count * count;
  if (at >= plane) return;
  const Stamp stamp = stamp_of(problem, static_cast<int>(at / count), at % count);
  const bool pyramid = problem.profile == Profile::pyramid;
  const double row = stamp.window.top - stamp.row, column = stamp.window.left - stamp.column;
  write_span(planes, at, stamp.window);
  device::store(planes + plane + at,
                Bits{{word_of(pyramid ? row / stamp.row_scale : row),
                      word_of(pyramid ? column / stamp.column_scale : column),
                      word_of(1 / stamp.row_scale), word_of(1 / stamp.column_scale)}});
}

}  // namespace sssd::boxes_cuda
