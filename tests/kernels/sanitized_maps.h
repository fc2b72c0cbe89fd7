// Maps in buffers of exactly the size that a kernel may touch.
#pragma once

#include <vector>

#include "kernels/boxes/boxes.h"

namespace sssd {

inline double sum(const std::vector<float>& values) {
  double total = 0;
  for (const float value : values) total += value;
  return total;
}

struct Maps {
  std::vector<std::vector<float>> data;
  BoxLevels levels{};

  Maps(const std::vector<Size>& sizes, int64_t batch, int64_t channels, bool channels_last) {
    for (const Size size : sizes) {
      data.emplace_back(batch * channels * size.height * size.width, 0.25f);
      levels.level[levels.count++] = {data.back().data(), size, channels_last};
    }
  }
  double sum() const {
    double total = 0;
    for (const auto& level : data) total += sssd::sum(level);
    return total;
  }
};

}  // namespace sssd
