#include "kernels/divergence/cuda_launch.cuh"

namespace sssd::divergence {
namespace {

template <class Call>
const char* with_member(const Settings& settings, Call call) {
  switch (member_of(settings)) {
    case Member::js:
      return call(Js());
    case Member::kl:
      return call(Kl());
    case Member::softmax_mse:
      return call(SoftmaxMse());
    default:
      return call(Affine());
  }
}

}  // namespace

const char* cuda_workspace(const Levels& levels, const Settings& settings, int64_t& floats) {
  return with_member(
      settings, [&](auto member) { return workspace<decltype(member)>(levels, settings, floats); });
}

const char* cuda_forward(const Levels& levels, const Settings& settings, float* saved,
                         float* values, float* factors, float* workspace, void* stream) {
  return with_member(settings, [&](auto member) {
    return forward<decltype(member)>(levels, settings, saved, values, factors, workspace, stream);
  });
}

const char* cuda_backward(const Levels& levels, const Settings& settings, const float* saved,
                          const float* factors, const float* grad_values, void* stream) {
  return with_member(settings, [&](auto member) {
    return backward<decltype(member)>(levels, settings, saved, factors, grad_values, stream);
  });
}

}  // namespace sssd::divergence
