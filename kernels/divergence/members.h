// The members of the divergence family, each written once for CUDA threads (V = float) and CPU
// lanes (V = Lanes): the statistics of a row, the term of an element, the gradient of an element.
// README.md derives the formulas; `a` is the student, `b` the teacher, `d` = log2 p - log2 q.
//
// The host asks a member for `planes`, the numbers it saves of a row between forward and backward,
// and for `gradient_scale`, what all of its gradients are multiplied by. A kernel runs, for each
// row:
//   1. Stats   over the elements of a and of b; merge(...) joins parts of a row
//   2. row   = Member::prepare(constants, stats_a, stats_b)
//   3. Member::term(constants, row, a, b, sums)       over the elements; sums add up (Sums::add)
//   4. D     = Member::finish(constants, row, sums)
//      Member::save(constants, row, sums, [](int plane, V value) { ... });
// and backward, from the saved planes alone:
//   5. row   = Member::load<V>(constants, [](int plane) -> V { ... })     row.value is D, plane 0
//   6. Member::gradient(constants, row, a, b)
//      times contribution_slope(D) * row weight * level factor * constants.gradient_scale
#pragma once

#include <stdexcept>

#include "kernels/divergence/affine.h"
#include "kernels/divergence/js.h"
#include "kernels/divergence/kl_mse.h"

namespace sssd::divergence {

// call(member) with the one that the settings ask for.
template <class Call>
auto with_member(const Settings& settings, Call call) {
  const bool softmax = settings.normalize == Normalize::softmax;
  switch (settings.measure) {
    case Measure::js:
      if (softmax) return call(Js());
      break;
    case Measure::kl:
      if (softmax) return call(Kl());
      break;
    case Measure::mse:
      return softmax ? call(SoftmaxMse()) : call(Affine());
    case Measure::cosine:
      if (!softmax) return call(Affine());
      break;
  }
  throw std::invalid_argument("rows so normalized do not have this divergence");
}

// Numbers saved a row, each a plane of Levels::rows values; the first is D.
inline int saved_planes(const Settings& settings) {
  return with_member(settings, [&](auto member) { return member.planes(settings); });
}

}  // namespace sssd::divergence
