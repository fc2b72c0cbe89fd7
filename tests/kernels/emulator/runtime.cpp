// The limits of the chip that is played: a launch beyond them is refused, as the device would.
#include "tests/kernels/emulator/runtime.h"

#include <dlfcn.h>

#include <map>
#include <stdexcept>

#include "tests/kernels/emulator/host_cuda.h"

namespace host_cuda {

Settings settings;
Traffic traffic;
std::vector<Call> calls;

namespace {

constexpr std::size_t kSharedUnasked = 48 << 10;  // bytes that every kernel may have
constexpr unsigned kMostThreads = 1024, kMostDeep = 64, kMostRegisters = 65536;
constexpr unsigned kMostBlocks = 0x7fffffff, kMostAcross = 65535;

cudaError_t last_error = cudaSuccess;
std::string reason;                            // of the last refusal
std::map<const void*, std::size_t> asked_for;  // dynamic shared memory, by kernel

cudaError_t refuse(cudaError_t error, const std::string& why) {
  reason = why + " on sm_" + std::to_string(settings.chip.capability);
  return last_error = error;
}
bool to_fail(const char* function) { return settings.refused.count(function) != 0; }
cudaError_t fail(const char* function) {
  return refuse(cudaErrorUnknown, std::string(function) + " fails");
}

std::size_t allowed_shared(const void* kernel) {
  const auto found = asked_for.find(kernel);
  return found == asked_for.end() ? kSharedUnasked : std::max(kSharedUnasked, found->second);
}
std::string name_of(const void* kernel) {
  Dl_info found;
  return dladdr(kernel, &found) && found.dli_sname ? found.dli_sname : "";
}
unsigned cluster_of(const cudaLaunchConfig_t& config) {
  unsigned blocks = 1;
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const auto& size = config.attrs[i].val.clusterDim;
    if (config.attrs[i].id == cudaLaunchAttributeClusterDimension)
      blocks = size.x * size.y * size.z;
  }
  return blocks;
}
// Warps have registers in pieces of 256, and their number is rounded up to four.
unsigned registers_of(unsigned threads, unsigned each) {
  const unsigned warps = (threads + kWarp - 1) / kWarp;
  return (warps + 3) / 4 * 4 * ((each * kWarp + 255) / 256 * 256);
}

cudaError_t check(const void* kernel, const cudaLaunchConfig_t& config) {
  const dim3 &grid = config.gridDim, &block = config.blockDim;
  const auto text = [](auto number) { return std::to_string(number); };
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > kMostThreads || block.x > kMostThreads || block.y > kMostThreads ||
      block.z > kMostDeep)
    return refuse(cudaErrorInvalidConfiguration, text(threads) + " threads a block");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > kMostBlocks || grid.y > kMostAcross ||
      grid.z > kMostAcross)
    return refuse(cudaErrorInvalidConfiguration,
                  "a grid of " + text(grid.x) + " x " + text(grid.y) + " x " + text(grid.z));
  if (config.dynamicSmemBytes > allowed_shared(kernel))
    return refuse(cudaErrorInvalidValue, text(config.dynamicSmemBytes) +
                                             " bytes of dynamic shared memory, where " +
                                             text(allowed_shared(kernel)) + " are allowed");
  const Resources needed = settings.resources ? settings.resources(name_of(kernel)) : Resources{};
  if (threads > static_cast<unsigned>(needed.threads))
    return refuse(cudaErrorLaunchOutOfResources, text(threads) +
                                                     " threads of a kernel with launch "
                                                     "bounds of " +
                                                     text(needed.threads));
  if (registers_of(threads, needed.registers) > kMostRegisters)
    return refuse(cudaErrorLaunchOutOfResources,
                  text(threads) + " threads of " + text(needed.registers) + " registers");
  return cudaSuccess;
}

cudaError_t check_cluster(const cudaLaunchConfig_t& config) {
  const unsigned blocks = cluster_of(config);
  if (blocks == 1) return cudaSuccess;
  if (settings.chip.cluster == 1) return refuse(cudaErrorNotSupported, "a cluster");
  if (blocks > static_cast<unsigned>(settings.chip.cluster))
    return refuse(cudaErrorInvalidClusterSize, "a cluster of " + std::to_string(blocks));
  if (blocks == 0 || config.gridDim.x % blocks)
    return refuse(cudaErrorInvalidConfiguration, "a grid that is not whole clusters");
  if (to_fail("clusters")) return fail("clusters");
  return cudaSuccess;
}

void note(const char* function, const void* kernel, const cudaLaunchConfig_t& config) {
  calls.push_back(
      {function, name_of(kernel), config.blockDim.x, config.dynamicSmemBytes, cluster_of(config)});
}

}  // namespace

void play(const Settings& given) {
  if (!given.goes_on) asked_for.clear();
  settings = given;
  traffic = {};
  calls.clear();
  last_error = cudaSuccess;
}

cudaError_t allow_shared(const void* kernel, int bytes) {
  if (to_fail("cudaFuncSetAttribute")) return fail("cudaFuncSetAttribute");
  if (bytes < 0 || bytes > settings.chip.shared_bytes)
    return refuse(cudaErrorInvalidValue, std::to_string(bytes) + " bytes of shared memory");
  // Another thread may be about to launch with what it asked for.
  std::size_t& asked = asked_for[kernel];
  if (static_cast<std::size_t>(bytes) < asked)
    throw std::runtime_error("less shared memory than the kernel was allowed before");
  asked = bytes;
  return cudaSuccess;
}

cudaError_t attributes(cudaFuncAttributes* attributes) {
  if (to_fail("cudaFuncGetAttributes")) return fail("cudaFuncGetAttributes");
  attributes->ptxVersion = settings.ptx ? settings.ptx : settings.chip.capability;
  return cudaSuccess;
}

cudaError_t largest_cluster(int* blocks, const void* kernel, const cudaLaunchConfig_t& config) {
  const char* const function = "cudaOccupancyMaxPotentialClusterSize";
  note(function, kernel, config);
  if (to_fail(function)) return fail(function);
  if (settings.chip.cluster == 1) return refuse(cudaErrorNotSupported, "a cluster");
  *blocks = settings.chip.cluster;
  return check(kernel, config);
}

cudaError_t launch(const void* kernel, const cudaLaunchConfig_t& config,
                   std::function<void()> call) {
  note("cudaLaunchKernelEx", kernel, config);
  for (const cudaError_t error : {check(kernel, config), check_cluster(config)})
    if (error != cudaSuccess) return error;
  const bool asked = allowed_shared(kernel) > kSharedUnasked;
  run({config.gridDim, config.blockDim, config.dynamicSmemBytes,
       asked ? settings.chip.shared_bytes : kSharedUnasked, cluster_of(config), std::move(call)});
  ++traffic.launches;
  return cudaSuccess;
}

}  // namespace host_cuda

using host_cuda::settings;

cudaError_t cudaGetDevice(int* device) {
  if (host_cuda::to_fail("cudaGetDevice")) return host_cuda::fail("cudaGetDevice");
  *device = settings.device;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  if (host_cuda::to_fail("cudaDeviceGetAttribute"))
    return host_cuda::fail("cudaDeviceGetAttribute");
  *value = attribute == cudaDevAttrClusterLaunch ? settings.chip.cluster > 1
                                                 : settings.chip.shared_bytes;
  return cudaSuccess;
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = host_cuda::last_error;
  host_cuda::last_error = cudaSuccess;
  return error;
}

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : host_cuda::reason.c_str();
}
