// How one object is drawn on one level of a heatmap, for every processor.
#pragma once

#include "kernels/boxes/boxes.h"

namespace sssd {

struct Stamp {
  CellSpan window;                 // zero outside
  double row, column;              // of the centre, in cells
  double row_scale, column_scale;  // pyramid: size in cells; Gaussian: 2 sigma^2
};

SSSD_HOST_DEVICE inline Stamp stamp_of(const HeatmapProblem& problem, int level, int64_t t) {
  const Size image = problem.objects.image, size = problem.levels.level[level].size;
  if (!problem.shown(level, t)) return {};
  const Box box = problem.objects.box(t);
  if (problem.profile == Profile::box || problem.profile == Profile::pyramid) {
    const double rows = static_cast<double>(size.height) / image.height;
    const double columns = static_cast<double>(size.width) / image.width;
    return {cell_span(box, image, size), (box.y1 + box.y2) / 2 * rows,
            (box.x1 + box.x2) / 2 * columns, (box.y2 - box.y1) * rows, (box.x2 - box.x1) * columns};
  }
  const GaussianSpan gaussian = gaussian_span(box, image, size, problem.min_overlap,
                                              problem.profile == Profile::gaussian_legacy);
  const double six_sigma = 2.0 * gaussian.radius + 1, scale = six_sigma * six_sigma / 18;
  return {gaussian.window, static_cast<double>(gaussian.row), static_cast<double>(gaussian.column),
          scale, scale};
}

}  // namespace sssd
