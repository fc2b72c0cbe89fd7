// One fiber a CUDA thread: a block of 256 switches some ten million times a second, and the
// scheduler sees every barrier, so a divergent one is an error message instead of a hang.
#include <sys/mman.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include "tests/kernels/emulator/shared_memory.h"

thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace host_cuda {

thread_local Thread* self = nullptr;
SharedMemory* running = nullptr;

// Saves the callee-saved registers on the running stack, its pointer in *from, and goes on at `to`.
extern "C" void host_cuda_switch(void** from, void* to);
asm(R"(
.text
.globl host_cuda_switch
.type host_cuda_switch, @function
host_cuda_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size host_cuda_switch, .-host_cuda_switch
)");

namespace {

constexpr std::size_t kStackBytes = 256 << 10;
constexpr int kSavedRegisters = 6;

enum class State { kReady, kAtWarp, kAtBlock, kAtCluster, kDone };

struct Fiber : Thread {
  State state = State::kDone;
  int line = 0;  // of the barrier it waits at
  void* stack_pointer = nullptr;
  std::unordered_map<const void*, unsigned> occurrences;  // global accesses so far, by call site
};

// Global accesses of the lanes of one warp that belong to the same instruction.
struct Access {
  bool is_store = false;
  uint64_t bytes = 0;
  std::vector<uintptr_t> sectors;
};

struct Block {
  explicit Block(const Launch& launch)
      : fibers(launch.block.x * launch.block.y * launch.block.z),
        accesses((fibers.size() + kWarp - 1) / kWarp),
        exchange(accesses.size() * 2 * kWarp),
        shared(launch),
        kernel(launch.kernel) {}
  std::vector<Fiber> fibers;
  std::vector<std::unordered_map<uint64_t, Access>> accesses;  // by warp; key: site and occurrence
  std::vector<uint64_t> exchange;                              // [warp][parity][lane]
  SharedMemory shared;
  const std::function<void()>& kernel;
  void* scheduler = nullptr;
  Fiber* running = nullptr;
  std::string fault;
};
Block* block = nullptr;  // the one that runs

void leave() {
  block->running->state = State::kDone;
  host_cuda_switch(&block->running->stack_pointer, block->scheduler);
}

void enter() {
  block->kernel();
  leave();
}

void start(Fiber& fiber, unsigned char* stack) {
  void** top = reinterpret_cast<void**>(stack + kStackBytes - 64);  // 16-byte aligned
  *--top = nullptr;  // where enter() would return to: it never does
  *--top = reinterpret_cast<void*>(&enter);
  fiber.stack_pointer = top - kSavedRegisters;
  fiber.state = State::kReady;
  fiber.shuffles = 0;
}

void resume(Fiber& fiber) {
  self = block->running = &fiber;
  threadIdx = fiber.thread_index, blockIdx = fiber.block_index;
  running = &block->shared;
  host_cuda_switch(&block->scheduler, fiber.stack_pointer);
  running = nullptr;
  if (!block->fault.empty()) throw std::runtime_error(block->fault);
}

void wait(State state, int line) {
  Fiber& fiber = *block->running;
  fiber.state = state;
  fiber.line = line;
  host_cuda_switch(&fiber.stack_pointer, block->scheduler);
}

// True if all of [first, last) wait in `state` at one line; they are then made ready.
bool release(Fiber* first, Fiber* last, State state) {
  const int line = first->line;
  for (const Fiber* fiber = first; fiber != last; ++fiber)
    if (fiber->state != state || fiber->line != line) return false;
  for (; first != last; ++first) first->state = State::kReady;
  return true;
}

[[noreturn]] void report_divergence() {
  std::string message =
      "barrier divergence in block " + std::to_string(block->fibers[0].block_index.x) + ":";
  for (const Fiber& fiber : block->fibers) {
    const Fiber* previous = &fiber == &block->fibers[0] ? nullptr : &fiber - 1;
    if (previous && previous->state == fiber.state && previous->line == fiber.line) continue;
    message += " from thread " + std::to_string(fiber.linear);
    message += fiber.state == State::kDone      ? ": returned;"
               : fiber.state == State::kAtWarp  ? ": at a warp barrier, line "
               : fiber.state == State::kAtBlock ? ": at a block barrier, line "
                                                : ": at a cluster barrier, line ";
    if (fiber.state != State::kDone) message += std::to_string(fiber.line) + ";";
  }
  throw std::runtime_error(message);
}

void run_warp(Fiber* first, Fiber* last) {
  do {
    for (Fiber* fiber = first; fiber != last; ++fiber)
      if (fiber->state == State::kReady) resume(*fiber);
  } while (release(first, last, State::kAtWarp));
}

void count_accesses() {
  for (auto& warp : block->accesses) {
    for (auto& [key, access] : warp) {
      std::sort(access.sectors.begin(), access.sectors.end());
      const auto end = std::unique(access.sectors.begin(), access.sectors.end());
      const uint64_t sectors = end - access.sectors.begin();
      const uint64_t ideal = (access.bytes + 31) / 32;
      (access.is_store ? traffic.store_accesses : traffic.load_accesses) += 1;
      (access.is_store ? traffic.store_sectors : traffic.load_sectors) += sectors;
      (access.is_store ? traffic.store_ideal : traffic.load_ideal) += ideal;
    }
    warp.clear();
  }
  for (Fiber& fiber : block->fibers) fiber.occurrences.clear();
}

void start_block(unsigned number, dim3 grid, dim3 size, unsigned char* stacks) {
  block->shared.clear();
  for (unsigned t = 0; t < block->fibers.size(); ++t) {
    Fiber& fiber = block->fibers[t];
    fiber.linear = t;
    fiber.thread_index = {t % size.x, t / size.x % size.y, t / (size.x * size.y)};
    fiber.block_index = {number % grid.x, number / grid.x % grid.y, number / (grid.x * grid.y)};
    start(fiber, stacks + t * kStackBytes);
  }
}

// Until every thread is done, or waits for the other blocks of its cluster.
void run_block() {
  Fiber* const first = block->fibers.data();
  Fiber* const last = first + block->fibers.size();
  do {
    for (Fiber* warp = first; warp < last; warp += kWarp)
      run_warp(warp, std::min(warp + kWarp, last));
    ++traffic.barriers;
  } while (release(first, last, State::kAtBlock));
  --traffic.barriers;  // the last round ended otherwise
  const State state = first->state == State::kAtCluster ? State::kAtCluster : State::kDone;
  for (const Fiber& fiber : block->fibers)
    if (fiber.state != state) report_divergence();
  if (settings.counting) count_accesses();
}

// The blocks of a cluster, in turn from one of its barriers to the next.
void run_cluster(std::vector<Block>& cluster) {
  const Fiber& any = cluster[0].fibers[0];
  while (any.state != State::kDone) {
    for (Block& each : cluster) {
      block = &each;
      run_block();
    }
    for (Block& each : cluster) {
      block = &each;
      const Fiber& first = each.fibers[0];
      const bool together = any.state == State::kDone || first.line == any.line;
      if (first.state != any.state || !together) report_divergence();
    }
    for (Block& each : cluster)
      release(each.fibers.data(), each.fibers.data() + each.fibers.size(), State::kAtCluster);
  }
}

}  // namespace

void run(const Launch& launch) {
  const dim3 grid = gridDim = launch.grid;
  blockDim = launch.block;
  const unsigned blocks = grid.x * grid.y * grid.z, cluster = launch.cluster;
  std::vector<Block> together;
  together.reserve(cluster);
  for (unsigned i = 0; i < cluster; ++i) together.emplace_back(launch);
  const std::size_t threads = together[0].fibers.size();
  const std::size_t stack_bytes = cluster * threads * kStackBytes;
  auto unmap = [stack_bytes](void* stacks) { munmap(stacks, stack_bytes); };
  void* mapped = mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) throw std::runtime_error("no memory for the stacks of a block");
  const std::unique_ptr<void, decltype(unmap)> stacks(mapped, unmap);
  for (unsigned i = 0; i < blocks; i += cluster) {
    for (unsigned j = 0; j < cluster; ++j) {
      block = &together[j];
      const unsigned number = settings.order == BlockOrder::kReverse ? blocks - 1 - i - j : i + j;
      start_block(number, grid, launch.block,
                  static_cast<unsigned char*>(mapped) + j * threads * kStackBytes);
    }
    run_cluster(together);
  }
}

void fault(const std::string& what) {
  if (!running) throw std::runtime_error(what);
  block->fault =
      what + ", thread " + std::to_string(self->linear) + " of block " + std::to_string(blockIdx.x);
  leave();
  std::abort();  // nobody resumes it
}

void cluster_barrier(int line) {
  if (settings.chip.cluster == 1) fault("a cluster barrier on a chip without clusters");
  wait(State::kAtCluster, line);
}
void block_barrier(int line) { wait(State::kAtBlock, line); }
void warp_barrier(int line) { wait(State::kAtWarp, line); }

unsigned char* dynamic_shared() { return block->shared.dynamic(); }
void* static_shared(const void* site, std::size_t bytes, std::size_t alignment) {
  return block->shared.variable(site, bytes, alignment);
}

uint64_t exchange(uint64_t mine, unsigned source) {
  Fiber& fiber = *block->running;
  uint64_t* slots = &block->exchange[(fiber.linear / kWarp * 2 + fiber.shuffles++ % 2) * kWarp];
  slots[fiber.linear % kWarp] = mine;
  wait(State::kAtWarp, -1);
  return slots[source];
}

__attribute__((noinline)) void record(bool is_store, const void* address, unsigned bytes) {
  if (!settings.counting) return;
  Fiber& fiber = *block->running;
  const void* site = __builtin_return_address(0);
  const uint64_t key = (reinterpret_cast<uintptr_t>(site) << 24) + fiber.occurrences[site]++;
  Access& access = block->accesses[fiber.linear / kWarp][key];
  access.is_store = is_store;
  access.bytes += bytes;
  (is_store ? traffic.store_bytes : traffic.load_bytes) += bytes;
  const uintptr_t first = reinterpret_cast<uintptr_t>(address) / 32;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(address) + bytes - 1) / 32;
  for (uintptr_t sector = first; sector <= last; ++sector) access.sectors.push_back(sector);
}

}  // namespace host_cuda
