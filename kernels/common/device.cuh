// What a CUDA kernel of this project stands on: element types, counted global accesses, warp
// shuffles, launches. With SSSD_HOST_CUDA the names come from a header that is included before: the
// tests' emulator, which runs them on the CPU.
#pragma once

#include <cstddef>
#include <cstdint>

#ifndef SSSD_HOST_CUDA
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

#include "kernels/common/dtype.h"

namespace sssd::device {

constexpr int kWarp = 32;

// ---- memory -------------------------------------------------------------------------------------

// 16 bytes as they lie in memory: 4 fp32, 8 half-precision, or (low half only) 4 half-precision.
struct alignas(16) Bits {
  uint32_t word[4];
};
struct alignas(8) HalfBits {
  uint32_t word[2];
};

#ifdef SSSD_HOST_CUDA
using Where = std::source_location;
template <class T>
__forceinline__ T load(const T* address, Where where = Where::current()) {
  host_cuda::check_alignment(false, address, sizeof(T), where);
  host_cuda::record(false, address, sizeof(T));
  return *address;
}
template <class T>
__forceinline__ T load_written(const T* address, Where where = Where::current()) {
  return load(address, where);
}
template <class T>
__forceinline__ void store(T* address, T value, Where where = Where::current()) {
  host_cuda::check_alignment(true, address, sizeof(T), where);
  host_cuda::record(true, address, sizeof(T));
  *address = value;
}
// Vectors in shared memory.
__forceinline__ Bits load_shared(const Bits* address, Where where = Where::current()) {
  host_cuda::check_alignment(false, address, sizeof(Bits), where);
  return *address;
}
__forceinline__ void store_shared(Bits* address, Bits bits, Where where = Where::current()) {
  host_cuda::check_alignment(true, address, sizeof(Bits), where);
  *address = bits;
}
#else
// Read-only for the whole launch: the non-coherent path, vectors in one instruction.
__device__ __forceinline__ float load(const float* address) { return __ldg(address); }
__device__ __forceinline__ uint32_t load(const uint32_t* address) { return __ldg(address); }
__device__ __forceinline__ uint16_t load(const uint16_t* address) { return __ldg(address); }
__device__ __forceinline__ HalfBits load(const HalfBits* address) {
  const uint2 bits = __ldg(reinterpret_cast<const uint2*>(address));
  return {{bits.x, bits.y}};
}
__device__ __forceinline__ Bits load(const Bits* address) {
  const uint4 bits = __ldg(reinterpret_cast<const uint4*>(address));
  return {{bits.x, bits.y, bits.z, bits.w}};
}
// What other blocks of this launch may have written: not through the cache of an SM.
__device__ __forceinline__ float load_written(const float* address) { return __ldcg(address); }
__device__ __forceinline__ Bits load_written(const Bits* address) {
  const uint4 bits = __ldcg(reinterpret_cast<const uint4*>(address));
  return {{bits.x, bits.y, bits.z, bits.w}};
}
__device__ __forceinline__ Bits load_shared(const Bits* address) { return *address; }
__device__ __forceinline__ void store_shared(Bits* address, Bits bits) { *address = bits; }
template <class T>
__device__ __forceinline__ void store(T* address, T value) {
  *address = value;
}
__device__ __forceinline__ void store(HalfBits* address, HalfBits bits) {
  *reinterpret_cast<uint2*>(address) = make_uint2(bits.word[0], bits.word[1]);
}
__device__ __forceinline__ void store(Bits* address, Bits bits) {
  *reinterpret_cast<uint4*>(address) =
      make_uint4(bits.word[0], bits.word[1], bits.word[2], bits.word[3]);
}
#endif

// ---- element types ------------------------------------------------------------------------------

#ifdef SSSD_HOST_CUDA
inline float float_from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline uint32_t bits_of_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
inline float half_to_float(uint32_t pair, int i) {
  const uint16_t bits = static_cast<uint16_t>(i ? pair >> 16 : pair);
  _Float16 value;
  std::memcpy(&value, &bits, sizeof(value));
  return static_cast<float>(value);
}
inline uint32_t pack_half(float low, float high) {
  const _Float16 pair[2] = {static_cast<_Float16>(low), static_cast<_Float16>(high)};
  uint32_t bits;
  std::memcpy(&bits, pair, sizeof(bits));
  return bits;
}
inline uint32_t bfloat_of_float(float value) {  // to nearest, ties to even
  const uint32_t bits = bits_of_float(value);
  if (value != value) return 0x7fc0;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline uint32_t pack_bfloat(float low, float high) {
  return bfloat_of_float(low) | bfloat_of_float(high) << 16;
}
#else
__device__ __forceinline__ float float_from_bits(uint32_t bits) { return __uint_as_float(bits); }
__device__ __forceinline__ uint32_t bits_of_float(float value) { return __float_as_uint(value); }
__device__ __forceinline__ float half_to_float(uint32_t pair, int i) {
  return __half2float(__ushort_as_half(static_cast<uint16_t>(i ? pair >> 16 : pair)));
}
__device__ __forceinline__ uint32_t pack_half(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return __half_as_ushort(pair.x) | static_cast<uint32_t>(__half_as_ushort(pair.y)) << 16;
}
__device__ __forceinline__ uint32_t pack_bfloat(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return __bfloat16_as_ushort(pair.x) | static_cast<uint32_t>(__bfloat16_as_ushort(pair.y)) << 16;
}
#endif

// Element i of two bfloat16.
__device__ __forceinline__ float bfloat_to_float(uint32_t pair, int i) {
  return float_from_bits(i ? pair & 0xffff0000u : pair << 16);
}

// ---- warps, shared memory, launches -------------------------------------------------------------

template <class T>
__device__ __forceinline__ T shuffle_xor(T value, int lane_mask) {
  return __shfl_xor_sync(0xffffffffu, value, lane_mask);
}

constexpr int kFirstWithClusters = 90;  // 10 * major + minor
#if defined(SSSD_HOST_CUDA) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900)
constexpr bool kClusters = true;  // neighbouring blocks may run together
// Every thread of the cluster has come, and sees what the others wrote to global memory before.
#ifdef SSSD_HOST_CUDA
__forceinline__ void cluster_barrier() { host_cuda::cluster_barrier(__LINE__); }
#else
__device__ __forceinline__ void cluster_barrier() {
  __cluster_barrier_arrive();
  __cluster_barrier_wait();
}
#endif
#else
constexpr bool kClusters = false;
__device__ __forceinline__ void cluster_barrier() {}
#endif

// Shared memory: all that the launch asks for, and a variable (with extents, if an array).
#ifdef SSSD_HOST_CUDA
#define SSSD_DYNAMIC_SHARED(name) \
  float* const name = reinterpret_cast<float*>(host_cuda::dynamic_shared())
#define SSSD_SHARED(type, name, ...)              \
  static const char name##_site = 0;              \
  using name##_type = type __VA_ARGS__;           \
  name##_type& name = *static_cast<name##_type*>( \
      host_cuda::static_shared(&name##_site, sizeof(name##_type), alignof(name##_type)))
#else
#define SSSD_DYNAMIC_SHARED(name)                 \
  extern __shared__ float4 sssd_dynamic_shared[]; \
  float* const name = reinterpret_cast<float*>(sssd_dynamic_shared)
#define SSSD_SHARED(type, name, ...) __shared__ type name __VA_ARGS__
#endif

// How a kernel is launched. `shared_bytes` are dynamic; `cluster` neighbouring blocks run together.
struct Shape {
  int64_t blocks;
  int threads, shared_bytes = 0, cluster = 1;
};
struct Configuration {
  cudaLaunchAttribute cluster{};
  cudaLaunchConfig_t config{};

  Configuration(const Shape& shape, cudaStream_t stream) {
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = shape.cluster;
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    config.gridDim = static_cast<unsigned>(shape.blocks), config.blockDim = shape.threads;
    config.dynamicSmemBytes = shape.shared_bytes, config.stream = stream;
    config.attrs = &cluster, config.numAttrs = shape.cluster > 1 ? 1 : 0;
  }
  Configuration(const Configuration&) = delete;
};

// Null, or what CUDA refused: the next call is not to find it.
inline const char* message(cudaError_t error) {
  if (error == cudaSuccess) return nullptr;
  static_cast<void>(cudaGetLastError());
  return cudaGetErrorString(error);
}

// More shared memory than this a kernel must ask for. It asks for all that the device has, which
// reserves nothing: what one thread allows for its call, another would take back for its own.
// Kernels that need this have no static shared memory.
constexpr int kSharedUnasked = 48 << 10;
template <class... Parameters>
cudaError_t allow_shared(void (*kernel)(Parameters...), int bytes) {
  if (bytes <= kSharedUnasked) return cudaSuccess;
  int device = 0, most = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error != cudaSuccess) return error;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
}

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), const Shape& shape, cudaStream_t stream,
                   const Arguments&... arguments) {
  const cudaError_t error = allow_shared(kernel, shape.shared_bytes);
  if (error != cudaSuccess) return error;
  const Configuration configuration(shape, stream);
  return cudaLaunchKernelEx(&configuration.config, kernel, arguments...);
}

}  // namespace sssd::device
