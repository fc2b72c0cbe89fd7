// Two more divergences of softmax rows: Kullback-Leibler and squared error.
#pragma once

#include "kernels/divergence/softmax.h"

namespace sssd::divergence {

// KL(q || p), teacher against student: the sum of q (e^x - 1 - x) with x = log p - log q.
struct Kl : SoftmaxMember {
  static int planes(const Settings&) { return 4; }
  static double gradient_scale(const Settings& settings) { return 1 / settings.temperature; }
  template <class V, class R, class S>
  static SSSD_HOST_DEVICE void term(const Constants<S>& c, const Row<R>& row, V a, V b,
                                    Sums<R>& sums) {
    const Pair<V> pair = softmax_pair(row, V(c.scale), a, b);
    const auto above = pair.d > constant<V>(0);
    const V x = pair.d * constant<V>(kLn2);
    const V q = select(above, pair.small, pair.large);
    const V near =
        q * x * x * polynomial(x, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040);
    const V far = pair.large * select(above, pair.rest - pair.ratio * capped_natural(pair),
                                      pair.t * constant<V>(kLn2) - pair.rest);
    const V term = select(nearly_zero(pair.t, 0.36, 0.02), near, far);
    const V zero = constant<V>(0);  // of a mass 0, whose logarithm may be inf - inf
    accumulate(sums.a, select(pair.large == zero, zero, term));
    accumulate(sums.third, pair.large * select(above, pair.rest, -pair.rest));
  }
  template <class V, class S>
  static SSSD_HOST_DEVICE V finish(const Constants<S>&, const Row<V>&, const Sums<V>& sums) {
    return settled(sums.a, sums.third, constant<V>(1));
  }
  template <class V, class S, class Plane>
  static SSSD_HOST_DEVICE void save(const Constants<S>& c, const Row<V>& row, const Sums<V>& sums,
                                    Plane&& plane) {
    save_row(c, row, finish(c, row, sums), plane);
    plane(3, sums.third);
  }
  template <class V, class S, class Plane>
  static SSSD_HOST_DEVICE Row<V> load(const Constants<S>& c, Plane&& plane) {
    const V divergence = plane(0);
    // Where the student excludes what the teacher has, no step leads out: like a dead row.
    const auto apart = divergence == infinity<V>();
    Row<V> row = load_row(c, divergence, select(apart, infinity<V>(), V(plane(1))),
                          select(apart, constant<V>(0), V(plane(2))));
    row.excess = plane(3);
    row.sum_b = divergence - row.excess;  // sum q (-x)
    return row;
  }
  template <class V, class R, class S>
  static SSSD_HOST_DEVICE Gradients<V> gradient(const Constants<S>& c, const Row<R>& row, V a,
                                                V b) {
    const Pair<V> pair = softmax_pair(row, V(c.scale), a, b);
    const auto above = pair.d > constant<V>(0);
    const V x = select(above, capped_natural(pair), pair.d * constant<V>(kLn2));
    const V q = select(above, pair.small, pair.large), zero = constant<V>(0);
    return {pair.large * select(above, pair.rest, -pair.rest) - q * row.excess,
            select(q == zero, zero, q * (-x - row.sum_b))};
  }
};

// The squared distance of two softmaxes: sum (p - q)^2. The terms are of q as delta has it; the
// true one is q (1 + excess), by which the sums are mended, and each p - q of the gradient.
struct SoftmaxMse : SoftmaxMember {
  static int planes(const Settings&) { return 5; }
  static double gradient_scale(const Settings& settings) { return 2 / settings.temperature; }
  template <class V>
  struct Sums : RowSums<V> {  // a: sum q^2, b: sum q (p - q)
    V value = constant<V>(0);
    SSSD_HOST_DEVICE void add(const Sums& other) {
      RowSums<V>::add(other);
      value = value + other.value;
    }
    template <class F>
    SSSD_HOST_DEVICE void each(F&& f) {
      RowSums<V>::each(f), f(value);
    }
  };

  template <class V, class R, class S>
  static SSSD_HOST_DEVICE void term(const Constants<S>& c, const Row<R>& row, V a, V b,
                                    Sums<R>& sums) {
    const Pair<V> pair = softmax_pair(row, V(c.scale), a, b);
    const auto above = pair.d > constant<V>(0);
    const V gap = pair.large * select(above, pair.rest, -pair.rest);  // p - q
    const V q = select(above, pair.small, pair.large);
    accumulate(sums.value, gap * gap);
    accumulate(sums.a, q * q);
    accumulate(sums.b, q * gap);
    accumulate(sums.third, gap);
  }
  template <class V>  // sum q (p - q) of the true q
  static SSSD_HOST_DEVICE V mended_b(const Sums<V>& sums) {
    return sums.b - sums.third * sums.a;
  }
  template <class V, class S>
  static SSSD_HOST_DEVICE V finish(const Constants<S>&, const Row<V>&, const Sums<V>& sums) {
    const V value = sums.value - sums.third * (sums.b + mended_b(sums));
    return select(value < constant<V>(0), constant<V>(0), value);  // NaN stays NaN
  }
  template <class V, class S, class Plane>
  static SSSD_HOST_DEVICE void save(const Constants<S>& c, const Row<V>& row, const Sums<V>& sums,
                                    Plane&& plane) {
    save_row(c, row, finish(c, row, sums), plane);
    plane(3, sums.third);
    plane(4, mended_b(sums));
  }
  template <class V, class S, class Plane>
  static SSSD_HOST_DEVICE Row<V> load(const Constants<S>& c, Plane&& plane) {
    Row<V> row = load_row(c, V(plane(0)), V(plane(1)), V(plane(2)));
    row.excess = plane(3);
    row.sum_b = -V(plane(4));
    row.sum_a = row.value - row.sum_b;
    return row;
  }
  template <class V, class R, class S>
  static SSSD_HOST_DEVICE Gradients<V> gradient(const Constants<S>& c, const Row<R>& row, V a,
                                                V b) {
    const Pair<V> pair = softmax_pair(row, V(c.scale), a, b);
    const auto above = pair.d > constant<V>(0);
    const V p = select(above, pair.large, pair.small), q = select(above, pair.small, pair.large);
    const V gap = pair.large * select(above, pair.rest, -pair.rest) - q * row.excess;
    return {p * (gap - row.sum_a), q * (-gap - row.sum_b)};
  }
};

}  // namespace sssd::divergence
