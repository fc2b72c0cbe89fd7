// The Jensen-Shannon member.
#pragma once

#include "kernels/divergence/softmax.h"

namespace sssd::divergence {

// Jensen-Shannon: D = (KL(p || m) + KL(q || m)) / 2.
struct Js : SoftmaxMember {
  static int planes(const Settings&) { return 4; }
  static double gradient_scale(const Settings& settings) { return 0.5 / settings.temperature; }
  template <class V, class R, class S>
  static SSSD_HOST_DEVICE void term(const Constants<S>& c, const Row<R>& row, V a, V b,
                                    Sums<R>& sums) {
    const Pair<V> pair = softmax_pair(row, V(c.scale), a, b);
    const Midpoint<V> mid = midpoint(pair.rest);
    const V near = mid.above + mid.gap;
    const V far = constant<V>(0.5) * pair.rest + pair.ratio * (mid.log - capped_natural(pair));
    const V below = select(nearly_zero(pair.rest, 0.25, 0.02), near, far);
    const auto above = pair.d > constant<V>(0);
    accumulate(sums.a, pair.large * select(above, mid.above, below));
    accumulate(sums.b, pair.large * select(above, below, mid.above));
    accumulate(sums.third, pair.large * select(above, pair.rest, -pair.rest));
  }
  template <class V, class S>
  static SSSD_HOST_DEVICE V finish(const Constants<S>&, const Row<V>&, const Sums<V>& sums) {
    return settled(constant<V>(0.5) * (sums.a + sums.b), sums.third, constant<V>(0.25));
  }
  template <class V, class S, class Plane>
  static SSSD_HOST_DEVICE void save(const Constants<S>& c, const Row<V>& row, const Sums<V>& sums,
                                    Plane&& plane) {
    save_row(c, row, finish(c, row, sums), plane);
    plane(3, sums.a + constant<V>(0.5) * sums.third);  // sum p log(p/m); that of q is 2 D less it
  }
  template <class V, class S, class Plane>
  static SSSD_HOST_DEVICE Row<V> load(const Constants<S>& c, Plane&& plane) {
    Row<V> row = load_row(c, V(plane(0)), V(plane(1)), V(plane(2)));
    row.sum_a = plane(3);
    row.sum_b = row.value + row.value - row.sum_a;
    return row;
  }
  template <class V, class R, class S>
  static SSSD_HOST_DEVICE Gradients<V> gradient(const Constants<S>& c, const Row<R>& row, V a,
                                                V b) {
    const Pair<V> pair = softmax_pair(row, V(c.scale), a, b);
    const V up = midpoint(pair.rest).log, down = up - capped_natural(pair);
    const auto above = pair.d > constant<V>(0);
    const V p = select(above, pair.large, pair.small), q = select(above, pair.small, pair.large);
    return {p * (select(above, up, down) - row.sum_a), q * (select(above, down, up) - row.sum_b)};
  }
};

}  // namespace sssd::divergence
