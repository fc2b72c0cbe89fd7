// Rows normalised by a softmax: their statistics, and the two masses of an element.
#pragma once

#include "kernels/divergence/constants.h"

namespace sssd::divergence {

// Running softmax statistics: the largest logit, and the sum of 2^((x - max) scale).
template <class V>
struct SoftmaxStats {
  V max = -infinity<V>();
  V sum = constant<V>(0);

  // What the exponent is taken against: -inf - -inf would be NaN.
  static SSSD_HOST_DEVICE V anchor(V max) {
    return select(max == -infinity<V>(), constant<V>(0), max);
  }
  SSSD_HOST_DEVICE void raise(V new_max, V scale) {
    sum = sum * fast_exp2((max - anchor(new_max)) * scale);
    max = new_max;
  }
  SSSD_HOST_DEVICE void merge(SoftmaxStats other, V scale) {
    const V both = larger(max, other.max);
    raise(both, scale);
    other.raise(both, scale);
    sum = sum + other.sum;
  }
};

// A row of two softmaxes. A row without a finite logit on either side is dead: it counts 0.
template <class V>
struct SoftmaxRow {
  V shift_a, shift_b;    // log2 p = (a - shift_a) scale - offset_a
  V offset_a, offset_b;  // forward: log2 of the sums; backward: 0, folded into the shifts
  V delta;               // d = (a - b) scale - delta: the logits are subtracted first
  // backward: D, the excess of p over q, and what the softmax subtracts
  V value = constant<V>(0), excess = constant<V>(0);
  V sum_a = constant<V>(0), sum_b = constant<V>(0);

  static SSSD_HOST_DEVICE SoftmaxRow prepare(SoftmaxStats<V> a, SoftmaxStats<V> b, V scale) {
    const V zero = constant<V>(0);
    const auto dead = (a.sum == zero) | (b.sum == zero);
    SoftmaxRow row;
    row.offset_a = select(dead, zero, fast_log2(a.sum));
    row.offset_b = select(dead, zero, fast_log2(b.sum));
    row.shift_a = select(dead, infinity<V>(), a.max);
    row.shift_b = select(dead, infinity<V>(), b.max);
    row.delta = select(dead, zero, (a.max - b.max) * scale + (row.offset_a - row.offset_b));
    const V poison = row.delta - row.delta;  // NaN or infinity on one side is NaN on both
    row.offset_a = row.offset_a + poison, row.offset_b = row.offset_b + poison;
    return row;
  }
};

// The two masses of an element: `large` = max(p, q), `small` = min(p, q) = large * 2^-|d|.
template <class V>
struct Pair {
  V d, t;  // t = |d|
  V large, small;
  V rest;   // (large - small) / large, accurate however close they are
  V ratio;  // small / large
};

// R holds a number a row, V one an element: several of them where lanes are several elements.
template <class R, class V>
SSSD_HOST_DEVICE inline Pair<V> softmax_pair(const SoftmaxRow<R>& row, V scale, V a, V b) {
  Pair<V> pair;
  const V log_p = (a - row.shift_a) * scale - row.offset_a;
  const V log_q = (b - row.shift_b) * scale - row.offset_b;
  pair.large = fast_exp2(larger(log_p, log_q));
  // Where no mass is left d may be inf - inf: `decay` takes that for a large t. A row with a NaN
  // has it in every mass.
  pair.d = (a - b) * scale - row.delta;
  pair.t = fast_abs(pair.d);
  const Decay<V> fall = decay(pair.t);
  pair.ratio = fall.value;
  pair.rest = fall.rest;
  pair.small = pair.large * fall.value;
  return pair;
}

// Below `single` (or `twice` in double), x >= 0, a short series is more accurate than the closed
// form.
template <class V>
SSSD_HOST_DEVICE inline auto nearly_zero(V x, double single, double twice) {
  return x < constant<V>(sizeof(scalar_of_t<V>) == 8 ? twice : single);
}

template <class V>
SSSD_HOST_DEVICE inline V capped_natural(const Pair<V>& pair) {  // |d| in nats, finite
  return smaller(pair.t, constant<V>(127)) * constant<V>(kLn2);
}

// What the softmax members share. They save D, the student's log-sum-exp (in logits) and delta.
struct SoftmaxMember {
  static constexpr bool kSoftmax = true;
  template <class V>
  using Stats = SoftmaxStats<V>;
  template <class V>
  using Row = SoftmaxRow<V>;
  template <class V>
  using Sums = RowSums<V>;

  template <class V, class S>
  static SSSD_HOST_DEVICE Row<V> prepare(const Constants<S>& c, const Stats<V>& a,
                                         const Stats<V>& b) {
    return Row<V>::prepare(a, b, V(c.scale));
  }
  template <class V, class S, class Plane>
  static SSSD_HOST_DEVICE void save_row(const Constants<S>& c, const Row<V>& row, V divergence,
                                        Plane&& plane) {
    plane(0, divergence);
    plane(1, row.shift_a + fast_div(row.offset_a, V(c.scale)));
    plane(2, row.delta);  // to the bit: what the gradient subtracts has the same rounding in it
  }
  // delta carries the rounding of two log-sum-exps; `excess` = sum p - sum q shows it to first
  // order. A divergence feels it in second: curvature / 2 * excess^2, and is never negative.
  template <class V>
  static SSSD_HOST_DEVICE V settled(V sum, V excess, V curvature) {
    const V exact = sum - constant<V>(0.5) * curvature * excess * excess;
    return select(exact < constant<V>(0), constant<V>(0), exact);  // NaN stays NaN
  }
  template <class V, class S>
  static SSSD_HOST_DEVICE Row<V> load_row(const Constants<S>& c, V divergence, V shift, V delta) {
    Row<V> row;
    row.offset_a = row.offset_b = constant<V>(0);
    row.value = divergence;
    row.shift_a = shift;
    row.shift_b = shift - fast_div(delta, V(c.scale));
    row.delta = delta;
    return row;
  }
};

}  // namespace sssd::divergence
