// Small kernels with one fault each, and launches beyond each limit: what the emulator must refuse,
// and what it must let pass. Prints "name: what was said" a line; read by test_emulator.py.
#include <cstdio>
#include <stdexcept>
#include <string>

#include "kernels/common/device.cuh"

using namespace sssd::device;

namespace {

alignas(16) float memory[64];
constexpr int kUnasked = 48 << 10;

template <class T>
__global__ void loads(int offset) {
  const char* const from = reinterpret_cast<const char*>(memory) + offset;
  store(reinterpret_cast<T*>(memory), load(reinterpret_cast<const T*>(from)));
}
template <class T>
__global__ void stores(int offset) {
  store(reinterpret_cast<T*>(reinterpret_cast<char*>(memory) + offset), T{});
}
__global__ void loads_plainly(int offset) {
  const char* const from = reinterpret_cast<const char*>(memory) + offset;
  memory[32] = *reinterpret_cast<const float*>(from);
}
__global__ void loads_shared_bits_beside() {
  SSSD_DYNAMIC_SHARED(scratch);
  for (int i = 0; i < 16; ++i) scratch[i] = 1;
  store(reinterpret_cast<Bits*>(memory), load_shared(reinterpret_cast<const Bits*>(scratch + 2)));
}
__global__ void stores_shared_bits_beside() {
  SSSD_DYNAMIC_SHARED(scratch);
  store_shared(reinterpret_cast<Bits*>(scratch + 3), Bits{});
}
__global__ void nothing() {}
__global__ void barrier_of_a_cluster() { cluster_barrier(); }

__global__ void reads_dynamic(int written, int read) {
  SSSD_DYNAMIC_SHARED(scratch);
  if (static_cast<int>(threadIdx.x) < written) scratch[threadIdx.x] = 1;
  __syncthreads();
  if (static_cast<int>(threadIdx.x) == 0) store(memory, scratch[read]);
}
__global__ void reads_static(int written, int read) {
  SSSD_SHARED(float, scratch, [32]);
  if (static_cast<int>(threadIdx.x) < written) scratch[threadIdx.x] = 1;
  __syncthreads();
  if (static_cast<int>(threadIdx.x) == 0) store(memory, scratch[read]);
}
// Only the first block writes: what it leaves is not the next one's.
__global__ void reads_what_another_block_left() {
  SSSD_DYNAMIC_SHARED(scratch);
  if (blockIdx.x == 0) *scratch = 1;
  store(memory, *scratch);
}
template <int kBytes>
__global__ void has_static() {
  SSSD_SHARED(char, scratch, [kBytes]);
  scratch[0] = 1;
}

struct Asked {
  Shape shape{1, 32};
  bool ask = true;  // for more shared memory than every kernel has
  dim3 grid{0, 1, 1}, block{0, 1, 1};
};

template <class... Parameters, class... Arguments>
void attempt(const std::string& name, void (*kernel)(Parameters...), const Asked& asked,
             const Arguments&... arguments) try {
  cudaError_t error = asked.ask ? allow_shared(kernel, asked.shape.shared_bytes) : cudaSuccess;
  if (error == cudaSuccess) {
    Configuration configuration(asked.shape, nullptr);
    if (asked.grid.x) configuration.config.gridDim = asked.grid;
    if (asked.block.x) configuration.config.blockDim = asked.block;
    error = cudaLaunchKernelEx(&configuration.config, kernel, arguments...);
  }
  if (error == cudaSuccess) {
    std::printf("%s: passed\n", name.c_str());
    return;
  }
  std::printf("%s: refused %d %s\n", name.c_str(), error, cudaGetErrorString(error));
  if (cudaGetLastError() != error || cudaGetLastError() != cudaSuccess)
    throw std::logic_error("the last error is not this one, once");
} catch (const std::runtime_error& fault) {
  std::printf("%s: fault %s\n", name.c_str(), fault.what());
}

void on(int capability, host_cuda::Resources resources = {}) {
  host_cuda::Settings settings;
  for (const host_cuda::Chip& chip : host_cuda::kChips)
    if (chip.capability == capability) settings.chip = chip;
  settings.resources = [resources](const std::string&) { return resources; };
  host_cuda::play(settings);
}

void accesses() {
  on(90);
  attempt("aligned load", loads<Bits>, {}, 16);
  attempt("aligned store", stores<Bits>, {}, 32);
  attempt("load of 16 bytes", loads<Bits>, {}, 8);
  attempt("load of 8 bytes", loads<HalfBits>, {}, 4);
  attempt("load of 4 bytes", loads<float>, {}, 2);
  attempt("load of 2 bytes", loads<uint16_t>, {}, 1);
  attempt("store of 16 bytes", stores<Bits>, {}, 4);
  attempt("store of 8 bytes", stores<HalfBits>, {}, 4);
  attempt("plain load", loads_plainly, {}, 2);
  attempt("load of shared memory", loads_shared_bits_beside, {{1, 1, 64}});
  attempt("store of shared memory", stores_shared_bits_beside, {{1, 1, 64}});
  attempt("dynamic, written", reads_dynamic, {{1, 32, 128}}, 32, 31);
  attempt("dynamic, not written", reads_dynamic, {{1, 32, 128}}, 31, 31);
  attempt("static, written", reads_static, {}, 32, 31);
  attempt("static, not written", reads_static, {}, 31, 31);
  attempt("another block's", reads_what_another_block_left, {{2, 1, 4}});
}

void sizes() {
  on(90);
  attempt("1024 threads", nothing, {{1, 1024}});
  attempt("1025 threads", nothing, {{1, 1025}});
  attempt("no threads", nothing, {{1, 0}});
  attempt("65 threads deep", nothing, {{1, 32}, true, {0}, {1, 1, 65}});
  attempt("no blocks", nothing, {{0, 32}});
  attempt("2^31 blocks", nothing, {{int64_t{1} << 31, 32}});
  attempt("65535 blocks along y", nothing, {{1, 1}, true, {1, 65535, 1}});
  attempt("65536 blocks along y", nothing, {{1, 32}, true, {1, 65536, 1}});
  attempt("65536 blocks along z", nothing, {{1, 32}, true, {1, 1, 65536}});
  attempt("static of 48 KB", has_static<kUnasked>, {});
  attempt("static of more", has_static<kUnasked + 4>, {});
  attempt("static and dynamic of 48 KB", has_static<40 << 10>, {{1, 32, 8 << 10}});
  attempt("static and dynamic of more", has_static<40 << 10>, {{1, 32, (8 << 10) + 4}});
  attempt("dynamic of 48 KB", nothing, {{1, 32, kUnasked}, false});
  attempt("dynamic that was not asked for", nothing, {{1, 32, kUnasked + 4}, false});
  on(90, {128, 512});
  attempt("registers of 512 threads", nothing, {{1, 512}});
  attempt("more than the launch bounds", nothing, {{1, 544}});
  on(90, {129, 512});
  attempt("one register more", nothing, {{1, 512}});
}

void asks_for_less() try {
  on(90);
  for (const int bytes : {64 << 10, 60 << 10})
    static_cast<void>(
        cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  std::printf("asked for less: passed\n");
} catch (const std::runtime_error& fault) {
  std::printf("asked for less: fault %s\n", fault.what());
}

void chips() {
  for (const host_cuda::Chip& chip : host_cuda::kChips) {
    const auto name = [&](const char* what) {
      return "sm_" + std::to_string(chip.capability) + " " + what;
    };
    on(chip.capability);
    attempt(name("all shared memory"), nothing, {{1, 32, chip.shared_bytes}});
    on(chip.capability);
    attempt(name("more shared memory"), nothing, {{1, 32, chip.shared_bytes + 4}});
    on(chip.capability);
    attempt(name("static beside all"), has_static<4>, {{1, 32, chip.shared_bytes}});
    attempt(name("cluster of 8"), nothing, {{16, 32, 0, 8}});
    attempt(name("cluster of 16"), nothing, {{16, 32, 0, 16}});
    attempt(name("half a cluster"), nothing, {{4, 32, 0, 8}});
    attempt(name("cluster barrier"), barrier_of_a_cluster, {});
  }
}

}  // namespace

int main() {
  accesses();
  sizes();
  asks_for_less();
  chips();
}
