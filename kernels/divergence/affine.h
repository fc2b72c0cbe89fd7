// Rows y = (x - shift) scale: standardised, of unit length, or as they are.
#pragma once

#include "kernels/divergence/constants.h"

namespace sssd::divergence {

// Mean and sum of squared deviations of `count` elements; where rows are not centred, mean stays 0.
template <class V>
struct Moments {
  V count = constant<V>(0), mean = constant<V>(0), squares = constant<V>(0);

  SSSD_HOST_DEVICE void merge(const Moments& other, V) {
    const V total = count + other.count;
    const V share = select(total == constant<V>(0), constant<V>(0), fast_div(other.count, total));
    const V gap = other.mean - mean;
    squares = squares + other.squares + gap * gap * count * share;
    mean = mean + gap * share;
    count = total;
  }
};

template <class V>
struct AffineSide {
  V shift = constant<V>(0), scale = constant<V>(1);
  V slope = constant<V>(0), bend = constant<V>(0);  // d y costs (slope * sum + bend) * y
  V squares = constant<V>(1);                       // sum y^2 as cosine counts it

  template <class S>
  static SSSD_HOST_DEVICE AffineSide prepare(const Constants<S>& c, const Moments<V>& moments) {
    const V one = constant<V>(1), zero = constant<V>(0);
    AffineSide side;
    if (!c.normalized) return side;
    if (c.centre) side.shift = moments.mean;
    if (c.centre && !c.cosine) {
      const V variance = moments.squares * V(c.variance);
      const V deviation = fast_sqrt(variance);
      if (c.eps_inside) {
        side.scale = fast_div(one, fast_sqrt(variance + V(c.eps)));
        side.slope = side.scale * V(c.variance);
      } else {
        side.scale = fast_div(one, deviation + V(c.eps));
        side.slope = select(deviation == zero, zero, fast_div(V(c.variance), deviation));
      }
      return side;
    }
    const V norm = fast_sqrt(moments.squares);
    const auto tiny = norm < V(c.eps);  // there y = x / eps, a plain scaling
    side.scale = fast_div(one, select(tiny, V(c.eps), norm));
    side.slope = select(tiny, zero, side.scale);
    if (c.cosine) side.bend = select(tiny, side.scale, zero);
    side.squares = select(tiny, moments.squares * side.scale * side.scale, one);
    return side;
  }
};

template <class V>
struct AffineRow {
  AffineSide<V> side_a, side_b;
  V bend_a, bend_b, value;  // backward
};

// Squared error of normalized rows: D = sum (y - z)^2, or half of it, 1 - cosine of unit rows.
struct Affine {
  static constexpr bool kSoftmax = false;
  static int planes(const Settings& settings) {
    return Constants<double>(settings, 1, 1).normalized ? 7 : 1;
  }
  static double gradient_scale(const Settings& settings) {
    return settings.measure == Measure::cosine ? 1 : 2;
  }

  template <class V>
  using Stats = Moments<V>;
  template <class V>
  using Row = AffineRow<V>;
  template <class V>
  using Sums = RowSums<V>;  // third: sum (y - z)^2

  template <class V, class S>
  static SSSD_HOST_DEVICE Row<V> prepare(const Constants<S>& c, const Stats<V>& a,
                                         const Stats<V>& b) {
    const V zero = constant<V>(0);
    return {AffineSide<V>::prepare(c, a), AffineSide<V>::prepare(c, b), zero, zero, zero};
  }
  template <class V, class R, class S>
  static SSSD_HOST_DEVICE void term(const Constants<S>&, const Row<R>& row, V a, V b,
                                    Sums<R>& sums) {
    const V y = (a - row.side_a.shift) * row.side_a.scale;
    const V z = (b - row.side_b.shift) * row.side_b.scale;
    const V gap = y - z;
    accumulate(sums.a, y * gap);
    accumulate(sums.b, -z * gap);
    accumulate(sums.third, gap * gap);
  }
  template <class V, class S>
  static SSSD_HOST_DEVICE V finish(const Constants<S>& c, const Row<V>& row, const Sums<V>& sums) {
    if (!c.cosine) return sums.third;
    const V half = constant<V>(0.5);
    return half * sums.third + (constant<V>(1) - half * (row.side_a.squares + row.side_b.squares));
  }
  template <class V, class S, class Plane>
  static SSSD_HOST_DEVICE void save(const Constants<S>& c, const Row<V>& row, const Sums<V>& sums,
                                    Plane&& plane) {
    plane(0, finish(c, row, sums));
    if (!c.normalized) return;
    plane(1, row.side_a.shift);
    plane(2, row.side_a.scale);
    plane(3, row.side_a.slope * sums.a + row.side_a.bend);
    plane(4, row.side_b.shift);
    plane(5, row.side_b.scale);
    plane(6, row.side_b.slope * sums.b + row.side_b.bend);
  }
  template <class V, class S, class Plane>
  static SSSD_HOST_DEVICE Row<V> load(const Constants<S>& c, Plane&& plane) {
    Row<V> row;
    row.value = plane(0);
    row.bend_a = row.bend_b = constant<V>(0);
    if (!c.normalized) return row;
    row.side_a.shift = plane(1), row.side_a.scale = plane(2), row.bend_a = plane(3);
    row.side_b.shift = plane(4), row.side_b.scale = plane(5), row.bend_b = plane(6);
    return row;
  }
  template <class V, class R, class S>
  static SSSD_HOST_DEVICE Gradients<V> gradient(const Constants<S>&, const Row<R>& row, V a, V b) {
    const V y = (a - row.side_a.shift) * row.side_a.scale;
    const V z = (b - row.side_b.shift) * row.side_b.scale;
    const V gap = y - z;
    return {gap * row.side_a.scale - y * row.bend_a, -gap * row.side_b.scale - z * row.bend_b};
  }
};

}  // namespace sssd::divergence
