// The shared memory of a block: what was never written is NaN, and known.
#pragma once
#include <string>
#include <vector>

#include "tests/kernels/emulator/host_cuda.h"

namespace host_cuda {

class SharedMemory {
 public:
  explicit SharedMemory(const Launch& launch)
      : limit_(launch.shared_limit), unused_(launch.shared_limit - launch.shared_bytes) {
    pieces_.emplace_back(nullptr, launch.shared_bytes);
  }
  // Before a block starts.
  void clear() {
    for (Piece& piece : pieces_) {
      std::fill(piece.bytes.begin(), piece.bytes.end(), kUnwritten);
      std::fill(piece.written.begin(), piece.written.end(), 0);
    }
  }
  unsigned char* dynamic() { return pieces_[0].bytes.data(); }
  // Each variable has memory of its own, so that AddressSanitizer sees an overrun.
  void* variable(const void* site, std::size_t bytes, std::size_t alignment) {
    for (Piece& piece : pieces_)
      if (piece.site == site) return piece.bytes.data();
    bytes = (bytes + alignment - 1) / alignment * alignment;
    if (bytes > kStaticLimit - static_ || bytes > unused_)
      fault(std::to_string(static_ + bytes) + " bytes of static shared memory, " +
            std::to_string(pieces_[0].bytes.size()) + " of dynamic, where " +
            std::to_string(std::min(limit_, kStaticLimit)) + " are allowed");
    static_ += bytes, unused_ -= bytes;
    return pieces_.emplace_back(site, bytes).bytes.data();
  }

  // Notes a store; false for a load of what no thread of the block has written. (What g++ stores as
  // the result of a call comes unannounced, but is not as it was.)
  bool access(bool is_store, const void* address, std::size_t bytes) {
    for (Piece& piece : pieces_) {
      const std::size_t at = static_cast<const unsigned char*>(address) - piece.bytes.data();
      if (at >= piece.bytes.size()) continue;
      for (std::size_t i = at; i < std::min(at + bytes, piece.bytes.size()); ++i) {
        if (is_store) piece.written[i] = 1;
        if (!piece.written[i] && piece.bytes[i] == kUnwritten) return false;
      }
      return true;
    }
    return true;
  }

 private:
  static constexpr std::size_t kStaticLimit = 48 << 10;
  static constexpr unsigned char kUnwritten = 0xff;  // in every byte: NaN
  struct Piece {
    Piece(const void* site, std::size_t size)
        : site(site), bytes(size, kUnwritten), written(size, 0) {}
    const void* site;  // of the variable; null: dynamic
    std::vector<unsigned char> bytes, written;
  };
  std::vector<Piece> pieces_;
  std::size_t limit_, unused_, static_ = 0;
};

extern SharedMemory* running;  // of the block that runs, or null (fibers only)

}  // namespace host_cuda
