// Which cells of a level a box covers, and how a Gaussian sits on a level: the one place for native
// code. Its twin in PyTorch is sssd/ops/reference/{boxes,heatmap}.py, and a test holds them
// together.
//
// Everything is in double and free of multiply-adds that a compiler may contract (see `product`),
// so that every processor rounds alike; for float32 boxes the spans are exact.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/common/dtype.h"

namespace sssd {

struct Size {
  int32_t height, width;
};

// The covered cells: columns left .. right - 1 and rows top .. bottom - 1; all zero if none.
struct CellSpan {
  int32_t left, right, top, bottom;

  SSSD_HOST_DEVICE bool empty() const { return right == left; }
  SSSD_HOST_DEVICE int64_t cells() const { return int64_t{right - left} * (bottom - top); }
  SSSD_HOST_DEVICE bool in_row(int32_t row) const { return row >= top && row < bottom; }
  SSSD_HOST_DEVICE bool holds(int32_t row, int32_t column) const {
    return in_row(row) && column >= left && column < right;
  }
};

struct Box {
  double x1, y1, x2, y2;

  // Finite, with a positive width and height. (x - x is NaN for what is not finite.)
  SSSD_HOST_DEVICE bool usable() const {
    return x1 - x1 == 0 && y1 - y1 == 0 && x2 - x2 == 0 && y2 - y2 == 0 && x2 > x1 && y2 > y1;
  }
};

// A product that is rounded before it is added to anything. (On the CPU CMakeLists.txt says
// -ffp-contract=off for the files that work the geometry out.)
SSSD_HOST_DEVICE inline double product(double x, double y) {
#ifdef __CUDA_ARCH__
  return __dmul_rn(x, y);
#else
  return x * y;
#endif
}

SSSD_HOST_DEVICE inline int32_t clamp_cell(double cell, int32_t cells) {
  return cell > 0 ? (cell < cells ? static_cast<int32_t>(cell) : cells) : 0;
}

// Cell (i, j) stands at the image point (j W / W_l, i H / H_l) and is covered if the box holds it,
// border included: columns ceil(x1 W_l / W) .. floor(x2 W_l / W), rows likewise.
SSSD_HOST_DEVICE inline CellSpan cell_span(const Box& box, Size image, Size level) {
  if (!box.usable()) return {0, 0, 0, 0};
  const CellSpan span{
      clamp_cell(ceil(product(box.x1, level.width) / image.width), level.width),
      clamp_cell(floor(product(box.x2, level.width) / image.width) + 1, level.width),
      clamp_cell(ceil(product(box.y1, level.height) / image.height), level.height),
      clamp_cell(floor(product(box.y2, level.height) / image.height) + 1, level.height)};
  const bool covers = span.right > span.left && span.bottom > span.top;
  return covers ? span : CellSpan{0, 0, 0, 0};
}

// The largest shift of two corners that keeps `overlap` with a box of height x width: the smallest
// root over three cases. `legacy` divides all three by 2 alone, as CornerNet and CenterNet did.
SSSD_HOST_DEVICE inline double gaussian_radius(double height, double width, double overlap,
                                               bool legacy) {
  const double total = height + width, area = product(height, width);
  const double a3 = 4 * overlap;
  const double b1 = total, b2 = 2 * total, b3 = product(product(-2.0, overlap), total);
  const double c1 = product(area, 1 - overlap) / (1 + overlap);
  const double c2 = product(1 - overlap, area), c3 = product(overlap - 1, area);
  const double root1 = sqrt(product(b1, b1) - product(4, c1));
  const double root2 = sqrt(product(b2, b2) - product(16, c2));
  const double root3 = sqrt(product(b3, b3) - product(4 * a3, c3));
  const double r1 = (legacy ? b1 + root1 : b1 - root1) / 2;
  const double r2 = legacy ? (b2 + root2) / 2 : (b2 - root2) / 8;
  const double r3 = legacy ? (b3 + root3) / 2 : (b3 + root3) / (2 * a3);
  return fmin(r1, fmin(r2, r3));
}

// A Gaussian in cells: peak 1 at (row, column), zero outside `window`.
struct GaussianSpan {
  CellSpan window;
  int32_t row, column, radius;
};

SSSD_HOST_DEVICE inline GaussianSpan gaussian_span(const Box& box, Size image, Size level,
                                                   double overlap, bool legacy) {
  const GaussianSpan nothing{{0, 0, 0, 0}, 0, 0, 0};
  if (!box.usable()) return nothing;
  const double x1 = product(box.x1, level.width) / image.width;
  const double x2 = product(box.x2, level.width) / image.width;
  const double y1 = product(box.y1, level.height) / image.height;
  const double y2 = product(box.y2, level.height) / image.height;
  const double column = floor((x1 + x2) / 2), row = floor((y1 + y2) / 2);
  if (!(column >= 0 && column < level.width && row >= 0 && row < level.height)) return nothing;

  const double exact =
      gaussian_radius(fmax(ceil(y2 - y1), 1.0), fmax(ceil(x2 - x1), 1.0), overlap, legacy);
  // Beyond the longer side of any level a radius makes no difference but through sigma: keep it.
  const int32_t radius = clamp_cell(exact, INT32_MAX / 4);
  const CellSpan window{
      clamp_cell(column - radius, level.width), clamp_cell(column + radius + 1, level.width),
      clamp_cell(row - radius, level.height), clamp_cell(row + radius + 1, level.height)};
  return {window, static_cast<int32_t>(row), static_cast<int32_t>(column), radius};
}

}  // namespace sssd
