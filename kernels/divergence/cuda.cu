// Launches the kernels: what the device allows, then forward or backward of the member that was
// asked for, its strided levels and its contiguous ones.
#include <atomic>
#include <cstdlib>
#include <type_traits>

#include "kernels/divergence/cuda_backward.cuh"
#include "kernels/divergence/cuda_forward.cuh"

namespace sssd::divergence {
namespace {

constexpr int kMaxTiles = 0x7fffffff;
constexpr const char* kTooManyTiles = "the maps have more rows than one launch can take";

constexpr int kMostCluster = 8;  // blocks that every chip with clusters can run together

// In every call, so that a process may try several.
const char* read_switches(Chip& chip) {
  const char* const error = chip.switches.read(std::getenv("SSSD_CUDA_PLAN"));
  chip.cluster = static_cast<int>(std::min<int64_t>(chip.cluster, chip.switches.cluster));
  return error;
}

// What the current device lets the forward kernels of one member and layout use.
template <class Member, bool kStrided>
class Allowed {
 public:
  // Null, or what CUDA refused.
  const char* find() {
    if (const char* error = device::message(cudaGetDevice(&device_))) return error;
    const int64_t chip = device_ < kDevices ? known_[device_].load() : 0;
    if (chip) {
      chip_ = {chip / 16, static_cast<int>(chip % 16)};
      return read_switches(chip_);
    }
    int bytes = 0, clusters = 0;
    cudaFuncAttributes code{};
    for (const cudaError_t error :
         {cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device_),
          cudaDeviceGetAttribute(&clusters, cudaDevAttrClusterLaunch, device_),
          cudaFuncGetAttributes(&code, forward_kernel<Member, kStrided, true>)})
      if (const char* refused = device::message(error)) return refused;
    // PTX for an older chip may run on one with clusters, but has an empty kernel in their place.
    const bool able = clusters && code.ptxVersion >= device::kFirstWithClusters;
    remember({bytes, able ? largest_cluster(bytes) : 1});
    return read_switches(chip_);
  }
  const Chip& chip() const { return chip_; }
  // A cluster was refused: from now on, none.
  void forget_clusters() { remember(alone()); }

  Launch plan(const Levels& levels, const Settings& settings) const {
    return plan_on(chip_, levels, settings);
  }
  // Floats of workspace: enough also if a cluster is refused.
  int64_t workspace(const Levels& levels, const Settings& settings) const {
    return std::max(workspace_floats(plan(levels, settings)),
                    workspace_floats(plan_on(alone(), levels, settings)));
  }

 private:
  static constexpr int kDevices = 64;
  static inline std::atomic<int64_t> known_[kDevices];  // of each device: bytes * 16 + blocks
  int device_ = 0;
  Chip chip_;

  static Launch plan_on(const Chip& chip, const Levels& levels, const Settings& settings) {
    return plan_launch(levels, settings, facts_of<Member>(settings), chip, kStrided, false);
  }
  Chip alone() const { return {chip_.shared_bytes, 1, chip_.switches}; }
  void remember(const Chip& chip) {
    chip_ = chip;
    if (device_ < kDevices) known_[device_] = chip.shared_bytes * 16 + chip.cluster;
  }
  // How many blocks with all of shared memory can run together: fewer than usual on a slice of a
  // chip, and 1 if CUDA cannot tell.
  static int largest_cluster(int bytes) {
    const auto kernel = forward_kernel<Member, kStrided, true>;
    const device::Configuration configuration(
        {kMostCluster, kForwardThreads<kStrided>, bytes, kMostCluster}, nullptr);
    int blocks = 1;
    if (device::message(device::allow_shared(kernel, bytes)) ||
        device::message(
            cudaOccupancyMaxPotentialClusterSize(&blocks, kernel, &configuration.config)))
      return 1;
    return floor_power_of_two(blocks, 1, kMostCluster);
  }
};

template <class Member, bool kStrided>
cudaError_t forward_launch(const Launch& launch, cudaStream_t stream) {
  const int threads = launch.threads;
  const int scratch_bytes = 2 * launch.scratch * static_cast<int>(sizeof(float));
  const int chunk_bytes = threads * 2 * launch.stash_vectors * static_cast<int>(sizeof(Bits));
  cudaError_t error = cudaSuccess;
  if (const Launch cut = only_pieces(launch); cut.levels.tiles > 0) {
    using Stats = typename Member::template Stats<float>;
    error = device::launch(statistics_kernel<Stats, kStrided>,
                           {cut.levels.tiles, threads, scratch_bytes}, stream, cut);
  }
  if (error == cudaSuccess && launch.levels.tiles > 0) {
    const auto kernel = launch.cluster > 1 ? forward_kernel<Member, kStrided, true>
                                           : forward_kernel<Member, kStrided, false>;
    error = device::launch(
        kernel,
        {launch.levels.tiles, threads, scratch_bytes + launch.stash * chunk_bytes, launch.cluster},
        stream, launch);
  }
  if (error != cudaSuccess) return error;
  return device::launch(finish_kernel<Member, kStrided>, {launch.levels.count, kFinishThreads},
                        stream, launch);
}

template <class Member, bool kStrided>
const char* forward(const Levels& levels, const Settings& settings, float* saved, float* values,
                    float* factors, float*& workspace, cudaStream_t stream) {
  Allowed<Member, kStrided> allowed;
  if (const char* error = allowed.find()) return error;
  float* const mine = workspace;
  workspace += allowed.workspace(levels, settings);
  while (true) {
    Launch launch = allowed.plan(levels, settings);
    if (launch.levels.count == 0) return nullptr;
    if (launch.levels.tiles > kMaxTiles) return kTooManyTiles;
    launch.saved = saved, launch.values = values, launch.factors = factors;
    launch.piece_stats = mine;
    launch.piece_sums = launch.piece_stats + 4 * launch.slots;
    launch.tile_sums = launch.piece_sums + 4 * launch.slots;
    const char* const error = device::message(forward_launch<Member, kStrided>(launch, stream));
    if (!error || launch.cluster == 1) return error;
    allowed.forget_clusters();
  }
}
template <class Member, bool kStrided>
const char* backward(const Levels& levels, const Settings& settings, const float* saved,
                     const float* factors, const float* grad_values, cudaStream_t stream) {
  Chip chip;
  if (const char* error = read_switches(chip)) return error;
  Launch launch = plan_launch(levels, settings, facts_of<Member>(settings), chip, kStrided, true);
  if (launch.levels.tiles == 0) return nullptr;
  if (launch.levels.tiles > kMaxTiles) return kTooManyTiles;
  launch.saved = const_cast<float*>(saved), launch.factors = const_cast<float*>(factors);
  launch.grad_values = grad_values;
  const int bytes = launch.scratch * static_cast<int>(sizeof(float));
  return device::message(device::launch(backward_kernel<Member, kStrided>,
                                        {launch.levels.tiles, launch.threads, bytes}, stream,
                                        launch));
}
// call(member, whether strided) for the levels of either layout: null, or what CUDA refused.
template <class Call>
const char* each_layout(const Levels& levels, const Settings& settings, Call call) {
  if (levels.student_dtype == Dtype::f64 || levels.teacher_dtype == Dtype::f64)
    return "the CUDA kernels do not compute in float64";
  return with_member(settings, [&](auto member) -> const char* {
    const char* const error = call(member, std::true_type());
    return error ? error : call(member, std::false_type());
  });
}

}  // namespace

const char* cuda_workspace(const Levels& levels, const Settings& settings, int64_t& floats) {
  floats = 0;
  return each_layout(levels, settings, [&](auto member, auto strided) {
    Allowed<decltype(member), strided.value> allowed;
    const char* const error = allowed.find();
    if (!error) floats += allowed.workspace(levels, settings);
    return error;
  });
}

const char* cuda_forward(const Levels& levels, const Settings& settings, float* saved,
                         float* values, float* factors, float* workspace, void* stream) {
  return each_layout(levels, settings, [&](auto member, auto strided) {
    return forward<decltype(member), strided.value>(levels, settings, saved, values, factors,
                                                    workspace, static_cast<cudaStream_t>(stream));
  });
}

const char* cuda_backward(const Levels& levels, const Settings& settings, const float* saved,
                          const float* factors, const float* grad_values, void* stream) {
  return each_layout(levels, settings, [&](auto member, auto strided) {
    return backward<decltype(member), strided.value>(levels, settings, saved, factors, grad_values,
                                                     static_cast<cudaStream_t>(stream));
  });
}

}  // namespace sssd::divergence
