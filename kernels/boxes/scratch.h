// Memory that one thread of a CPU kernel works in.
#pragma once

#include <cstdint>
#include <cstdlib>

#include "kernels/boxes/boxes.h"

namespace sssd::boxes_cpu {
namespace {

// Uninitialised memory for one thread. (Not std::vector: this code is compiled once for each set of
// instructions, and the linker must not share a template's code between them.)
template <class X>
class Scratch {
 public:
  explicit Scratch(int64_t count)
      : data_(static_cast<X*>(std::aligned_alloc(64, (count * sizeof(X) + 127) / 64 * 64))) {}
  ~Scratch() { std::free(data_); }
  Scratch(const Scratch&) = delete;
  X* get() { return data_; }
  X& operator[](int64_t i) { return data_[i]; }

 private:
  X* data_;
};

inline int32_t widest(const BoxLevels& levels) {
  int32_t width = 0;
  for (int l = 0; l < levels.count; ++l)
    width = levels.level[l].size.width > width ? levels.level[l].size.width : width;
  return width;
}

}  // namespace
}  // namespace sssd::boxes_cpu
