// The Jensen-Shannon members.
#pragma once

#include "kernels/divergence/softmax.h"

namespace sssd::divergence {

// Jensen-Shannon: D = (KL(p || m) + KL(q || m)) / 2.
struct Js : SoftmaxMember {
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
    save_row(c, row, sums.third, plane);
    plane(2, settled(sums.a, sums.third, constant<V>(0.25)));
    plane(3, settled(sums.b, sums.third, constant<V>(0.25)));
  }
  template <class V, class S, class Plane>
  static SSSD_HOST_DEVICE Row<V> load(const Constants<S>& c, Plane&& plane) {
    return load_row(c, V(plane(0)), V(plane(1)), V(plane(2)), V(plane(3)));
  }
  template <class V, class S>
  static SSSD_HOST_DEVICE V saved_divergence(const Constants<S>&, const Row<V>& row) {
    return constant<V>(0.5) * (row.sum_a + row.sum_b);
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

// Generalised Jensen-Shannon: m = beta p + (1 - beta) q, D = beta KL(p || m) + (1 - beta) KL(q ||
// m).
struct JsBeta : Js {
  // log(1 + x) and psi(x) of the larger (x = up >= 0) and of the smaller mass (x = down <= 0).
  template <class V>
  struct Logs {
    V up, psi_up, down, psi_down;
  };

  // psi, given `far` = log(1 + x) as a difference of logarithms; log(1 + x) is mended near x = 0.
  template <class V>
  static SSSD_HOST_DEVICE V psi(V x, V one_plus_x, V& log1p_x) {
    const V series =
        x * x *
        polynomial(x, 1.0 / 2, -1.0 / 6, 1.0 / 12, -1.0 / 20, 1.0 / 30, -1.0 / 42, 1.0 / 56);
    const auto near = nearly_zero(x, 0.15, 0.01);
    const V result = select(near, series, one_plus_x * log1p_x - x);
    log1p_x = select(near, fast_div(series + x, one_plus_x), log1p_x);
    return result;
  }
  template <class V>
  static SSSD_HOST_DEVICE Logs<V> logs(const Pair<V>& pair, V weight_large, V weight_small) {
    const V mean = weight_large + weight_small * pair.ratio;  // m / large
    const V inverse = fast_div(constant<V>(1), mean);
    Logs<V> l;
    l.up = -fast_log2(mean) * constant<V>(kLn2);
    l.down = l.up - capped_natural(pair);
    l.psi_up = psi(weight_small * pair.rest * inverse, inverse, l.up);
    l.psi_down = psi(-weight_large * pair.rest * inverse, pair.ratio * inverse, l.down);
    return l;
  }

  template <class V, class R, class S>
  static SSSD_HOST_DEVICE void term(const Constants<S>& c, const Row<R>& row, V a, V b,
                                    Sums<R>& sums) {
    const V beta = V(c.beta), gamma = constant<V>(1) - beta;
    const Pair<V> pair = softmax_pair(row, V(c.scale), a, b);
    const auto above = pair.d > constant<V>(0);
    const V weight_large = select(above, beta, gamma), weight_small = select(above, gamma, beta);
    const Logs<V> l = logs(pair, weight_large, weight_small);
    const V large = pair.large;
    const V mean = large * (weight_large + weight_small * pair.ratio);
    accumulate(sums.a, mean * select(above, l.psi_up, l.psi_down));
    accumulate(sums.b, mean * select(above, l.psi_down, l.psi_up));
    accumulate(sums.third, large * select(above, pair.rest, -pair.rest));
  }
  template <class V, class S>
  static SSSD_HOST_DEVICE V finish(const Constants<S>& c, const Row<V>&, const Sums<V>& sums) {
    const V beta = V(c.beta), gamma = constant<V>(1) - beta;
    return settled(beta * sums.a + gamma * sums.b, sums.third, beta * gamma);
  }
  template <class V, class S, class Plane>
  static SSSD_HOST_DEVICE void save(const Constants<S>& c, const Row<V>& row, const Sums<V>& sums,
                                    Plane&& plane) {
    const V beta = V(c.beta), gamma = constant<V>(1) - beta;
    save_row(c, row, sums.third, plane);
    plane(2, settled(sums.a, sums.third, gamma * gamma));
    plane(3, settled(sums.b, sums.third, beta * beta));
  }
  template <class V, class S>
  static SSSD_HOST_DEVICE V saved_divergence(const Constants<S>& c, const Row<V>& row) {
    const V beta = V(c.beta);
    return beta * row.sum_a + (constant<V>(1) - beta) * row.sum_b;
  }
  template <class V, class R, class S>
  static SSSD_HOST_DEVICE Gradients<V> gradient(const Constants<S>& c, const Row<R>& row, V a,
                                                V b) {
    const V beta = V(c.beta), gamma = constant<V>(1) - beta;
    const Pair<V> pair = softmax_pair(row, V(c.scale), a, b);
    const auto above = pair.d > constant<V>(0);
    const Logs<V> l = logs(pair, select(above, beta, gamma), select(above, gamma, beta));
    const V p = select(above, pair.large, pair.small), q = select(above, pair.small, pair.large);
    return {beta * p * (select(above, l.up, l.down) - row.sum_a),
            gamma * q * (select(above, l.down, l.up) - row.sum_b)};
  }
};

}  // namespace sssd::divergence
