// Runs CUDA sources on the CPU, one block at a time, so that kernels are tested where no GPU is.
//
// A kernel compiled by g++ with this header in place of <cuda_runtime.h> sees threadIdx,
// __shared__,
// __syncthreads and warp shuffles as on the device. Threads of a block are fibers by default (fast,
// and the scheduler reports barriers that not every thread reaches); with HOST_CUDA_THREADS each is
// an operating-system thread, so that ThreadSanitizer sees what a missing barrier leaves unordered.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __shared__ static

using cudaStream_t = void*;
using std::max;
using std::min;

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

namespace host_cuda {

constexpr unsigned kWarp = 32;

// What one CUDA thread knows of itself; the scheduler points `self` at the running one.
struct Thread {
  dim3 thread_index, block_index, block_size, grid_size;
  unsigned linear = 0;    // position in the block
  unsigned shuffles = 0;  // so far in this block: alternates the exchange buffer
};
extern thread_local Thread* self;

enum class BlockOrder { kForward, kReverse };

// Counted while `counting` is on (fibers only). An access is one instruction of one warp; its
// sectors are the distinct 32-byte pieces of memory that the warp touches, `ideal` the fewest that
// could hold the bytes asked for.
struct Traffic {
  uint64_t load_bytes, load_accesses, load_sectors, load_ideal;
  uint64_t store_bytes, store_accesses, store_sectors, store_ideal;
  uint64_t launches, barriers;
};

struct Settings {
  BlockOrder order = BlockOrder::kForward;
  bool counting = false;
  int shared_limit = 99 << 10;  // bytes of shared memory that a block may have
  int cluster_limit = 1;        // blocks of a cluster; 1: a chip without clusters
};
extern Settings settings;
extern Traffic traffic;

// Throws std::runtime_error where threads of a cluster, a block or a warp part ways at a barrier.
// `cluster` neighbouring blocks run together (their kernel has no static shared memory).
void launch(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& kernel,
            unsigned cluster = 1);

void cluster_barrier(int line);
void block_barrier(int line);
void warp_barrier(int line);
// The dynamic shared memory: exactly as large as asked for, and all NaN when a block starts.
unsigned char* dynamic_shared();
// The 64 bits that lane `source` of this warp passes in the same call.
uint64_t exchange(uint64_t mine, unsigned source);
void record(bool is_store, const void* address, unsigned bytes);

}  // namespace host_cuda

#define threadIdx host_cuda::self->thread_index
#define blockIdx host_cuda::self->block_index
#define blockDim host_cuda::self->block_size
#define gridDim host_cuda::self->grid_size
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
