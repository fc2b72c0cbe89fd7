// What the compiler calls at every load and store of an instrumented kernel (fibers only), by its
// option -fsanitize=thread, with these functions in place of its library. So no access of shared
// memory needs a word in the kernels.
#include <dlfcn.h>

#include <sstream>

#include "tests/kernels/emulator/shared_memory.h"

namespace {

// `alignment` of an access that a device makes at once.
void check(bool is_store, const void* address, std::size_t bytes, std::size_t alignment,
           const void* from) {
  if (!host_cuda::running) return;
  const bool aligned = reinterpret_cast<uintptr_t>(address) % alignment == 0;
  if (host_cuda::running->access(is_store, address, bytes) && aligned) return;
  std::ostringstream text;
  text << (aligned ? "unwritten shared memory: " : "misaligned ") << (is_store ? "store" : "load")
       << " of " << bytes << " bytes";
  Dl_info code;
  if (dladdr(from, &code))
    text << " (addr2line -Cfie " << code.dli_fname << " 0x" << std::hex
         << static_cast<const char*>(from) - static_cast<const char*>(code.dli_fbase) << ")";
  host_cuda::fault(text.str());
}

}  // namespace

#define ACCESS(bytes)                                                 \
  extern "C" void __tsan_read##bytes(const void* address) {           \
    check(false, address, bytes, bytes, __builtin_return_address(0)); \
  }                                                                   \
  extern "C" void __tsan_write##bytes(const void* address) {          \
    check(true, address, bytes, bytes, __builtin_return_address(0));  \
  }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
extern "C" void __tsan_read_range(const void* address, std::size_t bytes) {
  check(false, address, bytes, 1, __builtin_return_address(0));
}
extern "C" void __tsan_write_range(const void* address, std::size_t bytes) {
  check(true, address, bytes, 1, __builtin_return_address(0));
}
extern "C" void __tsan_init() {}
// Of the launchers' std::atomic.
extern "C" uint64_t __tsan_atomic64_load(const uint64_t* from, int) { return *from; }
extern "C" void __tsan_atomic64_store(uint64_t* to, uint64_t value, int) { *to = value; }
