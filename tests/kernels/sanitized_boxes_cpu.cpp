// Runs the CPU box kernels over the levels of a tall image, which the widest of them do not bound,
// in buffers of exactly the size they may touch. Built under ASan and UBSan by
// test_sanitizers.py; prints sums of what they write.
#include <cstdio>
#include <vector>

#include "kernels/boxes/cpu.h"
#include "tests/kernels/sanitized_maps.h"

using namespace sssd;

namespace {

constexpr int64_t kBatch = 1, kChannels = 17, kClasses = 2;
constexpr Size kImage = {1344, 800};
const std::vector<Size> kSizes = {{168, 100}, {84, 50}, {5, 7}, {1, 1}};

// One task at a time.
void serial(int64_t tasks, void (*body)(int64_t, int64_t, void*), void* context) {
  body(0, tasks, context);
}

}  // namespace

int main() {
  using namespace boxes_cpu;
  // The whole image, as LGD's context row; the right edge; a small box; nothing at all.
  const std::vector<float> boxes = {0,   0,    800, 1344, 790, 600, 799, 1343,
                                    100, 1300, 130, 1340, 10,  10,  10,  20};
  const std::vector<int64_t> image(4, 0), label = {0, 1, 0, 1};
  const PackedObjects objects{boxes.data(), image.data(), false, true, 4, kImage};
  std::vector<float> values(4 * kChannels, 0.5f);
  for (const bool channels_last : {false, true}) {
    Maps maps(kSizes, kBatch, kChannels, channels_last);
    std::vector<float> pooled(maps.levels.count * values.size());
    const ObjectStore store(objects, maps.levels, kBatch);
    const PoolProblem pool{maps.levels, objects,   pooled.data(), Dtype::f32,
                           kBatch,      kChannels, true};
    kernels().pool(pool, store.view(), serial);
    const PaintProblem paint{maps.levels, objects, values.data(), 0,
                             Dtype::f32,  kBatch,  kChannels,     false};
    kernels().paint(paint, store.view(), serial);
    std::printf("%.3f %.1f ", sum(pooled), maps.sum());
  }
  for (const Profile profile : {Profile::box, Profile::gaussian}) {
    Maps heat(kSizes, kBatch, kClasses, false);
    const HeatmapProblem heatmap{heat.levels, objects,      label.data(), nullptr,
                                 nullptr,     Dtype::f32,   kBatch,       kClasses,
                                 profile,     Combine::max, 0.7};
    const ObjectStore store(heatmap);
    kernels().heatmap(heatmap, store.view(), serial);
    std::printf("%.1f ", heat.sum());
  }
  std::printf("\n");
  return 0;
}
