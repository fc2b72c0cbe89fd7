// The part of the CUDA runtime that the launchers call, with the limits of the chip that is played
// and the failures that a test asks for. Every result must be used.
#pragma once
#include <cstddef>
#include <functional>
#include <set>
#include <string>
#include <vector>

enum [[nodiscard]] cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchOutOfResources = 701,
  cudaErrorNotSupported = 801,
  cudaErrorInvalidClusterSize = 912,
  cudaErrorUnknown = 999,
};
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin, cudaDevAttrClusterLaunch };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
struct cudaFuncAttributes {
  int ptxVersion;  // that a kernel was compiled for, 10 * major + minor
};
enum cudaLaunchAttributeID { cudaLaunchAttributeClusterDimension = 4 };
using cudaStream_t = void*;

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    struct {
      unsigned x, y, z;
    } clusterDim;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

namespace host_cuda {

// What blocks of a chip may use at most. The same on all of them: 1024 threads, 65536 registers,
// 48 KB of shared memory that a kernel has not asked for.
struct Chip {
  int capability;    // 10 * major + minor
  int shared_bytes;  // of a block whose kernel asked for it
  int cluster;       // blocks; 1: a chip without clusters
};
constexpr Chip kChips[] = {{75, 64 << 10, 1},
                           {80, 163 << 10, 1},
                           {86, 99 << 10, 1},
                           {90, 227 << 10, 8},
                           {120, 99 << 10, 8}};

enum class BlockOrder { kForward, kReverse };

struct Resources {
  int registers = 0;   // of a thread; 0: not known
  int threads = 1024;  // that a block may have at most
};

struct Settings {
  Chip chip = kChips[3];
  int ptx = 0;                    // that its code comes from; 0: its own
  int device = 64;                // its number
  std::set<std::string> refused;  // functions that fail; "clusters": their launches do
  std::function<Resources(const std::string& mangled)> resources;  // of a kernel, if known
  BlockOrder order = BlockOrder::kForward;
  bool counting = false;
  bool goes_on = false;  // in the process that ran before
};
extern Settings settings;
// Calls about kernels so far: function, mangled kernel, threads, dynamic shared memory, cluster.
struct Call {
  std::string function, kernel;
  unsigned threads;
  std::size_t shared_bytes;
  unsigned cluster;
};
extern std::vector<Call> calls;
// Starts anew on a chip: no error is left, nothing is counted; no kernel has asked for anything,
// unless it goes on.
void play(const Settings& settings);

cudaError_t allow_shared(const void* kernel, int bytes);
cudaError_t attributes(cudaFuncAttributes* attributes);
cudaError_t largest_cluster(int* blocks, const void* kernel, const cudaLaunchConfig_t& config);
cudaError_t launch(const void* kernel, const cudaLaunchConfig_t& config,
                   std::function<void()> call);

}  // namespace host_cuda

cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);

template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute, int bytes) {
  return host_cuda::allow_shared(reinterpret_cast<const void*>(kernel), bytes);
}
template <class... Parameters>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, void (*)(Parameters...)) {
  return host_cuda::attributes(attributes);
}
template <class... Parameters>
cudaError_t cudaOccupancyMaxPotentialClusterSize(int* blocks, void (*kernel)(Parameters...),
                                                 const cudaLaunchConfig_t* config) {
  return host_cuda::largest_cluster(blocks, reinterpret_cast<const void*>(kernel), *config);
}
template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               const Arguments&... arguments) {
  static_assert((sizeof(Parameters) + ... + 0) <= 4096, "more parameters than a kernel may have");
  return host_cuda::launch(reinterpret_cast<const void*>(kernel), *config,
                           [&] { kernel(arguments...); });
}
