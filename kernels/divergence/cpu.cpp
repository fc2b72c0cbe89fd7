// Compiled once for each instruction set: SSSD_ISA names it (CMakeLists.txt).
#include "kernels/divergence/cpu.h"

#include "kernels/divergence/cpu_driver.h"

#define SSSD_STRING(x) #x
#define SSSD_NAME(x) SSSD_STRING(x)

namespace sssd::divergence::SSSD_ISA {

template <class S, class F>
auto with_member(const Settings& settings, F&& f) {
  switch (member_of(settings)) {
    case Member::js:
      return f(Driver<Js, S>());
    case Member::js_beta:
      return f(Driver<JsBeta, S>());
    case Member::kl:
      return f(Driver<Kl, S>());
    case Member::softmax_mse:
      return f(Driver<SoftmaxMse, S>());
    default:
      return f(Driver<Affine, S>());
  }
}

template <class S>
CpuKernels<S> kernels(const char* name) {
  return {name,
          [](const Levels& levels, const Settings& settings) {
            return with_member<S>(settings,
                                  [&](auto driver) { return driver.workspace_bytes(levels); });
          },
          [](const ForwardCall<S>& call) {
            with_member<S>(call.settings, [&](auto driver) { driver.forward(call); });
          },
          [](const BackwardCall<S>& call) {
            with_member<S>(call.settings, [&](auto driver) { driver.backward(call); });
          }};
}

const CpuKernels<float>& kernels_f32() {
  static const CpuKernels<float> table = kernels<float>(SSSD_NAME(SSSD_ISA));
  return table;
}

#ifdef SSSD_ISA_BASELINE  // double serves gradcheck: one build is enough
const CpuKernels<double>& kernels_f64() {
  static const CpuKernels<double> table = kernels<double>(SSSD_NAME(SSSD_ISA));
  return table;
}
#endif

}  // namespace sssd::divergence::SSSD_ISA
