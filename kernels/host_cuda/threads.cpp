// One operating-system thread a CUDA thread, for ThreadSanitizer: slow, and meant for small
// launches.
#include <barrier>
#include <memory>
#include <thread>
#include <vector>

#include "host_cuda.h"

namespace host_cuda {

thread_local Thread* self = nullptr;
Settings settings;
Traffic traffic;

namespace {

struct Block {
  std::barrier<>* cluster_barrier = nullptr;
  std::unique_ptr<std::barrier<>> barrier;
  std::vector<std::unique_ptr<std::barrier<>>> warp_barriers;
  std::vector<unsigned char> shared;
  std::vector<uint64_t> exchange;  // [warp][parity][lane]
};
thread_local Block* block = nullptr;  // of the running thread

}  // namespace

void launch(dim3 grid, dim3 size, std::size_t shared_bytes, const std::function<void()>& kernel,
            unsigned cluster) {
  const unsigned threads = size.x * size.y * size.z;
  const unsigned blocks = grid.x * grid.y * grid.z;
  std::barrier<> cluster_barrier(cluster * threads);
  std::vector<Block> together(cluster);
  for (Block& each : together) {
    each.cluster_barrier = &cluster_barrier;
    each.barrier = std::make_unique<std::barrier<>>(threads);
    for (unsigned first = 0; first < threads; first += kWarp)
      each.warp_barriers.push_back(
          std::make_unique<std::barrier<>>(threads - first < kWarp ? threads - first : kWarp));
    each.shared.resize(shared_bytes);
    each.exchange.resize(each.warp_barriers.size() * 2 * kWarp);
  }
  auto run = [&](unsigned j, unsigned t) {
    block = &together[j];
    Thread thread;
    thread.linear = t;
    thread.thread_index = {t % size.x, t / size.x % size.y, t / (size.x * size.y)};
    thread.block_size = size;
    thread.grid_size = grid;
    self = &thread;
    for (unsigned i = j; i < blocks; i += cluster) {
      const unsigned b = settings.order == BlockOrder::kReverse ? blocks - 1 - i : i;
      thread.block_index = {b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y)};
      if (t == 0) std::fill(block->shared.begin(), block->shared.end(), 0xff);
      cluster_barrier.arrive_and_wait();
      kernel();
      cluster_barrier.arrive_and_wait();  // shared memory is reused by the next block
    }
  };
  std::vector<std::thread> pool;
  for (unsigned i = 0; i < cluster * threads; ++i) pool.emplace_back(run, i / threads, i % threads);
  for (std::thread& thread : pool) thread.join();
  ++traffic.launches;
}

void cluster_barrier(int) { block->cluster_barrier->arrive_and_wait(); }
void block_barrier(int) { block->barrier->arrive_and_wait(); }
void warp_barrier(int) { block->warp_barriers[self->linear / kWarp]->arrive_and_wait(); }

unsigned char* dynamic_shared() { return block->shared.data(); }

uint64_t exchange(uint64_t mine, unsigned source) {
  uint64_t* slots = &block->exchange[(self->linear / kWarp * 2 + self->shuffles++ % 2) * kWarp];
  slots[self->linear % kWarp] = mine;
  warp_barrier(0);
  return slots[source];
}

void record(bool, const void*, unsigned) {}

}  // namespace host_cuda
