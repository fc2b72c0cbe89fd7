// Two images 3e9 elements apart in reserved, untouched memory: offsets that no 32 bits hold. The
// result must be that of the same two images side by side.
#include <sys/mman.h>

#include <cstdio>
#include <cstring>
#include <vector>

#include "kernels/divergence/cpu.cpp"

using namespace sssd;
using namespace sssd::divergence;

constexpr int64_t kChannels = 8, kCells = 19, kImage = kChannels * kCells;
constexpr int64_t kApart = 3000000000;

float* reserve(int64_t elements) {
  void* memory = mmap(nullptr, elements * sizeof(float), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<float*>(memory);
}

void serial(int64_t tasks, void (*body)(int64_t, int64_t, void*), void* context) {
  body(0, tasks, context);
}

struct Result {
  float value;
  std::vector<float> gradient;  // of both images
};

Result run(bool over_channels, int64_t apart) {
  const int64_t size = apart + kImage;
  float* student = reserve(size);
  float* teacher = reserve(size);
  float* gradient = reserve(size);
  if (!student || !teacher || !gradient) return {-1, {}};
  for (int64_t i = 0; i < 2 * kImage; ++i) {
    const int64_t at = i / kImage * apart + i % kImage;
    student[at] = float(i * 37 % 101) / 25;
    teacher[at] = float(i * 53 % 97) / 25;
  }
  ForwardCall<float> call{};
  Level& level = call.levels.level[0];
  level.student = student, level.teacher = teacher, level.grad_student = gradient;
  level.segments = 1;
  if (over_channels) {
    level.outer = 2, level.length = kChannels, level.inner = kCells, level.outer_stride = apart;
  } else {  // one row a channel, with a piece in each image
    level.outer = kChannels, level.segments = 2, level.length = kCells, level.inner = 1;
    level.outer_stride = kCells, level.segment_stride = apart;
  }
  call.levels.count = 1;
  call.levels.rows = level.rows();
  call.settings = {Normalize::softmax, Measure::js, Root::level, Rows::mean,
                   Elements::sum,      false,       1.0,         1e-5};
  using Driver = sssd::divergence::SSSD_ISA::Driver<Js, float>;
  float value, factor, one = 1;
  std::vector<float> saved(4 * level.rows());
  std::vector<char> workspace(Driver::workspace_bytes(call.levels));
  call.values = &value, call.factors = &factor, call.saved = saved.data();
  call.workspace = workspace.data(), call.parallel = serial;
  Driver::forward(call);
  Driver::backward({call.levels, call.settings, &one, &factor, saved.data(), serial});
  Result result{value, {}};
  for (int64_t i = 0; i < 2 * kImage; ++i)
    result.gradient.push_back(gradient[i / kImage * apart + i % kImage]);
  munmap(student, size * sizeof(float));
  munmap(teacher, size * sizeof(float));
  munmap(gradient, size * sizeof(float));
  return result;
}

int main() {
  for (bool over_channels : {true, false}) {
    const Result far = run(over_channels, kApart), near = run(over_channels, kImage);
    const bool same = far.value == near.value && far.gradient == near.gradient && far.value > 0 &&
                      far.gradient.back() != 0;
    std::printf("%s: %s\n", over_channels ? "channels" : "images_and_cells",
                same ? "same" : "different");
    if (!same) return 1;
  }
}
