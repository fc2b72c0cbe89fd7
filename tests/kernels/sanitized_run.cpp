// Runs the divergence kernels over small levels of every layout, in buffers of exactly the size
// they may touch. Built under the sanitizers by test_sanitizers.py; prints the values.
#include <cstdio>
#include <stdexcept>
#include <vector>

#include "kernels/divergence/members.h"

using namespace sssd;
using namespace sssd::divergence;

namespace {

struct Shape {
  int64_t outer, segments, length, inner;
};

void check(const char* error) {
  if (error) throw std::runtime_error(error);
}

void run(const std::vector<Shape>& shapes, Settings settings, bool half) {
  const int bytes = half ? 2 : 4;
  std::vector<std::vector<uint8_t>> maps, gradients;
  std::vector<std::vector<float>> weights;
  Levels levels{};
  levels.student_dtype = levels.teacher_dtype = half ? Dtype::f16 : Dtype::f32;
  for (const Shape& shape : shapes) {
    Level& level = levels.level[levels.count++];
    const int64_t elements = shape.outer * shape.segments * shape.length * shape.inner;
    for (int side = 0; side < 2; ++side) {
      maps.emplace_back(elements * bytes);
      gradients.emplace_back(elements * bytes);
      for (int64_t i = 0; i < elements; ++i) {
        const float value = float((i * 7 + side * 3 + levels.count) % 11) / 4 - 1;
        const _Float16 narrow = static_cast<_Float16>(value);
        std::memcpy(&maps.back()[i * bytes], half ? (const void*)&narrow : &value, bytes);
      }
    }
    level.student = maps[maps.size() - 2].data(), level.teacher = maps.back().data();
    level.grad_student = gradients[maps.size() - 2].data();
    level.grad_teacher = gradients.back().data();
    level.outer = shape.outer, level.segments = shape.segments;
    level.length = shape.length, level.inner = shape.inner;
    level.outer_stride = shape.segments > 1 ? shape.length : shape.length * shape.inner;
    level.segment_stride = shape.outer * shape.length;
    level.row0 = levels.rows;
    levels.rows += level.rows();
    weights.emplace_back(level.rows(), 0.5f);
    level.weights = weights.back().data();
  }
  int64_t floats = 0;
  check(cuda_workspace(levels, settings, floats));
  std::vector<float> saved(saved_planes(settings) * levels.rows), values(levels.count);
  std::vector<float> factors(levels.count), work(floats), ones(levels.count, 1.0f);
  check(cuda_forward(levels, settings, saved.data(), values.data(), factors.data(), work.data(),
                     nullptr));
  check(cuda_backward(levels, settings, saved.data(), factors.data(), ones.data(), nullptr));
  for (const float value : values) std::printf("%.6f ", value);
  std::printf("\n");
}

}  // namespace

int main(int arguments, char**) try {
  Settings settings{};
  settings.normalize = Normalize::softmax;
  settings.temperature = 1, settings.eps = 1e-5;
  settings.root = Root::level;
  const auto play = [](host_cuda::Chip chip) {
    host_cuda::Settings machine;
    machine.chip = chip;
    host_cuda::play(machine);
  };
  play(host_cuda::kChips[2]);
  // Whole vectors, and odd sizes; rows of one warp, of a block, and in pieces, for both shapes.
  // With an argument a few of them, for the thread a CUDA thread that is slow.
  const std::vector<Shape> few = {{1, 1, 33, 7}, {1, 1, 1300, 5}, {3, 1, 77, 1}, {1, 1, 2051, 1}};
  std::vector<Shape> all = {{2, 1, 40, 32}, {3, 1, 96, 1}, {1, 1, 20800, 1}, {2, 3, 21, 1}};
  all.insert(all.end(), few.begin(), few.end());
  run(arguments > 1 ? few : all, settings, false);
  // Rows that two blocks keep together.
  play({90, 16 << 10, 2});
  run({{1, 1, 4001, 1}, {1, 1, 500, 8}}, settings, false);
  if (arguments > 1) return 0;
  play(host_cuda::kChips[2]);
  run({{1, 1, 4550, 24}}, settings, false);  // pieces, and rows that fill no tile
  run(all, settings, true);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
