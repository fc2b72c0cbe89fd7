// One operating-system thread a CUDA thread, for ThreadSanitizer: slow, and meant for small
// launches.
#include <barrier>
#include <cstdio>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "tests/kernels/emulator/shared_memory.h"

thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace host_cuda {

thread_local Thread* self = nullptr;

namespace {

struct Block {
  explicit Block(const Launch& launch) : shared(launch) {}
  std::barrier<>* cluster_barrier = nullptr;
  std::unique_ptr<std::barrier<>> barrier;
  std::vector<std::unique_ptr<std::barrier<>>> warp_barriers;
  SharedMemory shared;
  std::mutex declaring;            // a variable in shared memory
  std::vector<uint64_t> exchange;  // [warp][parity][lane]
};
thread_local Block* block = nullptr;  // of the running thread

}  // namespace

void run(const Launch& launch) {
  const dim3 grid = launch.grid, size = launch.block;
  const unsigned threads = size.x * size.y * size.z, cluster = launch.cluster;
  const unsigned blocks = grid.x * grid.y * grid.z;
  std::barrier<> cluster_barrier(cluster * threads);
  std::vector<std::unique_ptr<Block>> together;
  for (unsigned i = 0; i < cluster; ++i) {
    Block& each = *together.emplace_back(std::make_unique<Block>(launch));
    each.cluster_barrier = &cluster_barrier;
    each.barrier = std::make_unique<std::barrier<>>(threads);
    for (unsigned first = 0; first < threads; first += kWarp)
      each.warp_barriers.push_back(
          std::make_unique<std::barrier<>>(threads - first < kWarp ? threads - first : kWarp));
    each.exchange.resize(each.warp_barriers.size() * 2 * kWarp);
  }
  auto play = [&](unsigned j, unsigned t) {
    block = together[j].get();
    Thread thread;
    thread.linear = t;
    threadIdx = {t % size.x, t / size.x % size.y, t / (size.x * size.y)};
    blockDim = size, gridDim = grid;
    self = &thread;
    for (unsigned i = j; i < blocks; i += cluster) {
      const unsigned b = settings.order == BlockOrder::kReverse ? blocks - 1 - i : i;
      blockIdx = {b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y)};
      if (t == 0) block->shared.clear();
      cluster_barrier.arrive_and_wait();
      launch.kernel();
      cluster_barrier.arrive_and_wait();  // shared memory is reused by the next block
    }
  };
  std::vector<std::thread> pool;
  for (unsigned i = 0; i < cluster * threads; ++i)
    pool.emplace_back(play, i / threads, i % threads);
  for (std::thread& thread : pool) thread.join();
}

void fault(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::abort();
}

void cluster_barrier(int) { block->cluster_barrier->arrive_and_wait(); }
void block_barrier(int) { block->barrier->arrive_and_wait(); }
void warp_barrier(int) { block->warp_barriers[self->linear / kWarp]->arrive_and_wait(); }

unsigned char* dynamic_shared() { return block->shared.dynamic(); }
void* static_shared(const void* site, std::size_t bytes, std::size_t alignment) {
  const std::lock_guard<std::mutex> lock(block->declaring);
  return block->shared.variable(site, bytes, alignment);
}

uint64_t exchange(uint64_t mine, unsigned source) {
  uint64_t* slots = &block->exchange[(self->linear / kWarp * 2 + self->shuffles++ % 2) * kWarp];
  slots[self->linear % kWarp] = mine;
  warp_barrier(0);
  return slots[source];
}

void record(bool, const void*, unsigned) {}

}  // namespace host_cuda
