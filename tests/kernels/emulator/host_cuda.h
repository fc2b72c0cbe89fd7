// Runs CUDA sources on the CPU, one block at a time, so that kernels are tested where no GPU is.
//
// A kernel compiled by g++ with this header in place of <cuda_runtime.h> sees threadIdx,
// __syncthreads and warp shuffles as on the device, and its launcher the functions of the CUDA
// runtime that it calls (runtime.h), which refuse what the chip that is played refuses. Threads of
// a block are fibers by default (fast, and the scheduler reports barriers that not every thread
// reaches); with threads.cpp each is an operating-system thread, so that ThreadSanitizer sees what
// a missing barrier leaves unordered.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <source_location>
#include <string>

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

using std::max;
using std::min;

#include "tests/kernels/emulator/runtime.h"

extern thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;  // of the running thread

namespace host_cuda {

constexpr unsigned kWarp = 32;

// What else the scheduler knows of a CUDA thread; `self` is the running one.
struct Thread {
  dim3 thread_index, block_index;
  unsigned linear = 0;    // position in the block
  unsigned shuffles = 0;  // so far in this block: alternates the exchange buffer
};
extern thread_local Thread* self;

// Counted while settings.counting is on (fibers only). An access is one instruction of one warp;
// its sectors are the distinct 32-byte pieces of memory that the warp touches, `ideal` the fewest
// that could hold the bytes asked for.
struct Traffic {
  uint64_t load_bytes, load_accesses, load_sectors, load_ideal;
  uint64_t store_bytes, store_accesses, store_sectors, store_ideal;
  uint64_t launches, barriers;
};
extern Traffic traffic;

// A launch that the runtime has allowed.
struct Launch {
  dim3 grid, block;
  std::size_t shared_bytes;  // dynamic
  std::size_t shared_limit;  // of static and dynamic together
  unsigned cluster;          // neighbouring blocks that run together
  std::function<void()> kernel;
};
// Throws std::runtime_error at the first fault, and where threads of a cluster, a block or a warp
// part ways at a barrier.
void run(const Launch& launch);
// What a device answers by ending the process's context: ends the launch.
[[noreturn]] void fault(const std::string& what);

void cluster_barrier(int line);
void block_barrier(int line);
void warp_barrier(int line);
// The dynamic shared memory: exactly as large as asked for.
unsigned char* dynamic_shared();
// The static shared memory of the variable that `site` stands for.
void* static_shared(const void* site, std::size_t bytes, std::size_t alignment);
// The 64 bits that lane `source` of this warp passes in the same call.
uint64_t exchange(uint64_t mine, unsigned source);
void record(bool is_store, const void* address, unsigned bytes);

// A device takes a misaligned access for an error.
__forceinline__ void check_alignment(bool is_store, const void* address, unsigned bytes,
                                     const std::source_location& where) {
  if (reinterpret_cast<uintptr_t>(address) % bytes)
    fault("misaligned " + std::string(is_store ? "store" : "load") + " of " +
          std::to_string(bytes) + " bytes, " + where.file_name() + ":" +
          std::to_string(where.line()));
}

}  // namespace host_cuda

#define __syncthreads() host_cuda::block_barrier(__LINE__)
#define __syncwarp() host_cuda::warp_barrier(__LINE__)

template <typename T>
T __shfl_xor_sync(unsigned, T value, int lane_mask) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = host_cuda::exchange(bits, (host_cuda::self->linear ^ lane_mask) % host_cuda::kWarp);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}
