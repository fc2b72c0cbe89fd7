// Runs the CPU box kernels over the levels of a tall image, which the widest of them do not bound,
// in buffers of exactly the size they may touch. Built under ASan and UBSan by
// test_boxes_sanitizers.py; prints sums of what they write.
#include <cstdio>
#include <vector>

#include "kernels/boxes/cpu.h"
#include "kernels/boxes/units.h"
#include "tests/kernels/sanitized_maps.h"

using namespace sssd;

namespace {

constexpr int64_t kBatch = 1, kChannels = 17, kClasses = 2;
constexpr Size kImage = {1344, 800};
const std::vector<Size> kSizes = {{168, 100}, {84, 50}, {5, 7}, {1, 1}};

template <class Problem, class Kernel>
void run(const Problem& problem, const boxes_cpu::ObjectStore& store, int64_t units,
         Kernel kernel) {
  for (int64_t unit = 0; unit < units; ++unit) kernel(problem, store.view(), unit, unit + 1);
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
    run(pool, store, pool_units(pool, store.view()), kernels().pool);
    const PaintProblem paint{maps.levels, objects, values.data(), 0,
                             Dtype::f32,  kBatch,  kChannels,     false};
    run(paint, store, paint_units(paint), kernels().paint);
    std::printf("%.3f %.1f ", sum(pooled), maps.sum());
  }
  for (const Profile profile : {Profile::box, Profile::gaussian}) {
    Maps heat(kSizes, kBatch, kClasses, false), mixed(kSizes, kBatch, kChannels, false);
    HeatmapProblem heatmap{heat.levels, objects,  label.data(), nullptr,      nullptr, Dtype::f32,
                           kBatch,      kClasses, profile,      Combine::max, 0.7};
    const ObjectStore store(heatmap);
    run(heatmap, store, heatmap_units(heatmap), kernels().heatmap);
    std::vector<float> table(kClasses * kChannels, 0.5f);
    heatmap.levels = mixed.levels;
    const EmbedProblem embed{heatmap, table.data(), kChannels};
    run(embed, store, embed_units(embed), kernels().embed);
    const double drawn = mixed.sum();
    run(embed, store, embed_backward_units(embed), kernels().embed_backward);
    std::printf("%.1f %.1f %.1f ", heat.sum(), drawn, sum(table));
  }
  std::printf("\n");
  return 0;
}
