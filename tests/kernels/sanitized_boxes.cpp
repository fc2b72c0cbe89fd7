// Runs the box kernels over small levels of both memory formats, in buffers of exactly the size
// they may touch. Built under the sanitizers by test_sanitizers.py; prints sums of what they
// write.
#include <cstdio>
#include <stdexcept>
#include <vector>

#include "kernels/boxes/cuda.h"
#include "tests/kernels/sanitized_maps.h"

using namespace sssd;

namespace {

constexpr int64_t kBatch = 2, kClasses = 2;
constexpr Size kImage = {96, 352};
// Levels of a tile and more, of odd sizes, of one cell, of none.
const std::vector<Size> kSizes = {{12, 44}, {7, 33}, {1, 1}, {0, 5}};

struct Scene {
  std::vector<float> boxes;
  std::vector<int64_t> image, label;
  std::vector<float> strength;

  explicit Scene(int objects) {
    for (int t = 0; t < objects; ++t) {
      const float x = float(t * 37 % 400) - 30, y = float(t * 17 % 120) - 15;
      boxes.insert(boxes.end(), {x, y, x + t * 29 % 200, y + t * 13 % 90});
      image.push_back(t % 5 == 4 ? -1 : t % kBatch);  // some belong to no image
      label.push_back(t % 3);                         // some to no class
      strength.push_back(0.5f);
    }
    boxes[0] = INFINITY;
  }
  PackedObjects packed() const {
    return {boxes.data(), image.data(), false, true, int64_t(image.size()), kImage};
  }
};

template <class Problem>
void launch(const char* (*kernels)(const Problem&, void*, void*), const Problem& problem,
            int64_t bytes) {
  std::vector<float> workspace(bytes / sizeof(float));
  const char* error = kernels(problem, workspace.data(), nullptr);
  if (error) throw std::runtime_error(error);
}
template <class Problem>
void launch(const char* (*kernels)(const Problem&, void*, void*), const Problem& problem) {
  launch(kernels, problem, boxes_cuda::workspace_bytes(problem));
}

void run(int objects, int64_t channels, bool channels_last) {
  const Scene scene(objects);
  Maps maps(kSizes, kBatch, channels, channels_last);
  std::vector<float> values(objects * channels, 0.5f);
  std::vector<float> pooled(maps.levels.count * values.size());
  launch(boxes_cuda::pool, PoolProblem{maps.levels, scene.packed(), pooled.data(), Dtype::f32,
                                       kBatch, channels, true});
  launch(boxes_cuda::paint, PaintProblem{maps.levels, scene.packed(), values.data(), 0, Dtype::f32,
                                         kBatch, channels, false});
  std::printf("%.4f %.4f", sum(pooled), maps.sum());
  for (const Profile profile : {Profile::pyramid, Profile::gaussian}) {
    Maps heat(kSizes, kBatch, kClasses, false);
    launch(boxes_cuda::heatmap, HeatmapProblem{heat.levels, scene.packed(), scene.label.data(),
                                               nullptr, scene.strength.data(), Dtype::f32, kBatch,
                                               kClasses, profile, Combine::sum, 0.7});
    std::printf(" %.3f", heat.sum());
  }
  std::printf("\n");
}

}  // namespace

int main(int arguments, char**) {
  run(20, 5, false);
  if (arguments > 1) return 0;  // for the thread a CUDA thread that is slow
  run(300, 37, false);          // more than one round of candidates, and of channels
  run(300, 37, true);
  return 0;
}
