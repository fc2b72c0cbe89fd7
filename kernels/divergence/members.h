// The members of the divergence family, each written once for CUDA threads (V = float) and CPU
// lanes (V = Lanes): the statistics of a row, the term of an element, the gradient of an element.
// README.md derives the formulas; `a` is the student, `b` the teacher, `d` = log2 p - log2 q.
//
// A kernel runs, for each row:
//   1. Stats   over the elements of a and of b; merge(...) joins parts of a row
//   2. row   = Member::prepare(constants, stats_a, stats_b)
//   3. Member::term(constants, row, a, b, sums)       over the elements; sums add up (Sums::add)
//   4. D     = Member::finish(constants, row, sums)
//      Member::save(constants, row, sums, [](int plane, V value) { ... });
// and backward, from the saved planes alone:
//   5. row   = Member::load<V>(constants, [](int plane) -> V { ... })
//      D     = Member::saved_divergence(constants, row)
//   6. Member::gradient(constants, row, a, b)
//      times contribution_slope(D) * row weight * level factor * constants.gradient_scale
#pragma once

#include "kernels/divergence/divergence.h"

namespace sssd::divergence {

// What depends on the call and the level only. S is the scalar the kernel computes in.
template <class S>
struct Constants {
  S scale;           // softmax: log2(e) / temperature
  S gradient_scale;  // what every gradient of the member is multiplied by
  S beta;
  S eps;
  S count;     // elements of a row
  S variance;  // standardize: 1 / count, or 1 / (count - 1) unbiased
  bool centre, normalized, cosine, eps_inside;

  SSSD_HOST_DEVICE Constants(const Settings& settings, int64_t row_length) {
    const Member member = member_of(settings);
    scale = S(1.4426950408889634074 / settings.temperature);
    cosine = settings.measure == Measure::cosine;
    gradient_scale = S(1);
    if (member == Member::js) gradient_scale = S(0.5 / settings.temperature);
    if (member == Member::js_beta || member == Member::kl)
      gradient_scale = S(1 / settings.temperature);
    if (member == Member::softmax_mse) gradient_scale = S(2 / settings.temperature);
    if (member == Member::affine && !cosine) gradient_scale = S(2);
    beta = S(settings.beta);
    eps = S(settings.eps);
    count = S(double(row_length));
    centre = settings.normalize == Normalize::standardize;
    normalized = centre || cosine || settings.normalize == Normalize::l2;
    eps_inside = !settings.unbiased;
    variance = S(settings.unbiased ? 1.0 / double(row_length > 1 ? row_length - 1 : 1)
                                   : 1.0 / double(row_length > 0 ? row_length : 1));
  }
};

constexpr double kLn2 = 0.69314718055994530942;
constexpr double kLog2E = 1.4426950408889634074;

template <class V>
SSSD_HOST_DEVICE inline V constant(double x) {
  return V(scalar_of_t<V>(x));
}
template <class V>
SSSD_HOST_DEVICE inline V infinity() {
  return constant<V>(HUGE_VAL);
}

// ---- softmax rows -------------------------------------------------------------------------------

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
  // After `raise` to a maximum that covers x.
  SSSD_HOST_DEVICE void add(V x, V scale) { sum = sum + fast_exp2((x - anchor(max)) * scale); }
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
  V sum_a = constant<V>(0), sum_b = constant<V>(0);  // backward: what the softmax subtracts

  static SSSD_HOST_DEVICE SoftmaxRow prepare(SoftmaxStats<V> a, SoftmaxStats<V> b, V scale) {
    const V zero = constant<V>(0);
    const auto dead = (a.sum == zero) | (b.sum == zero);
    SoftmaxRow row;
    row.offset_a = select(dead, zero, fast_log2(a.sum));
    row.offset_b = select(dead, zero, fast_log2(b.sum));
    row.shift_a = select(dead, infinity<V>(), a.max);
    row.shift_b = select(dead, infinity<V>(), b.max);
    row.delta = select(dead, zero, (a.max - b.max) * scale + (row.offset_a - row.offset_b));
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

template <class V>
SSSD_HOST_DEVICE inline Pair<V> softmax_pair(const SoftmaxRow<V>& row, V scale, V a, V b) {
  Pair<V> pair;
  pair.d = (a - b) * scale - row.delta;
  pair.t = fast_abs(pair.d);
  const V log_p = (a - row.shift_a) * scale - row.offset_a;
  const V log_q = (b - row.shift_b) * scale - row.offset_b;
  pair.large = fast_exp2(larger(log_p, log_q));
  const Decay<V> fall = decay(pair.t);
  pair.ratio = fall.value;
  pair.rest = fall.rest;
  pair.small = pair.large * fall.value;
  return pair;
}

// 0 where no mass is left (there d may be inf - inf), x elsewhere; NaN masses stay NaN.
template <class V>
SSSD_HOST_DEVICE inline V where_mass(const Pair<V>& pair, V x) {
  return select(pair.large == constant<V>(0), constant<V>(0), x);
}

template <class V>
SSSD_HOST_DEVICE inline V capped_natural(const Pair<V>& pair) {  // |d| in nats, finite
  const V cap = constant<V>(127);
  return select(pair.t > cap, cap, pair.t) * constant<V>(kLn2);
}

template <class V>
struct Gradients {
  V a, b;
};

// Sums a row: over its elements of a and b, and (softmax) of p - q, which is 0 but for rounding.
template <class V>
struct RowSums {
  V a = constant<V>(0), b = constant<V>(0), third = constant<V>(0);
  SSSD_HOST_DEVICE void add(const RowSums& other) {
    a = a + other.a, b = b + other.b, third = third + other.third;
  }
};

// What the softmax members share. They save the student's log-sum-exp (in logits) and delta.
struct SoftmaxMember {
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
  // delta carries the rounding of two log-sum-exps; sum p - sum q = `excess` shows it to first
  // order. Taken back, the gradient keeps its relative accuracy when the maps are nearly equal.
  template <class V, class S, class Plane>
  static SSSD_HOST_DEVICE void save_row(const Constants<S>& c, const Row<V>& row, V excess,
                                        Plane&& plane) {
    plane(0, row.shift_a + fast_div(row.offset_a, V(c.scale)));
    plane(1, row.delta + excess * constant<V>(kLog2E));
  }
  template <class V, class S>
  static SSSD_HOST_DEVICE Row<V> load_row(const Constants<S>& c, V shift, V delta, V sum_a,
                                          V sum_b) {
    Row<V> row;
    row.offset_a = row.offset_b = constant<V>(0);
    row.shift_a = shift;
    row.shift_b = shift - fast_div(delta, V(c.scale));
    row.delta = delta;
    row.sum_a = sum_a, row.sum_b = sum_b;
    return row;
  }
};

// Jensen-Shannon: D = (KL(p || m) + KL(q || m)) / 2 with u = |p - q| / (p + q) = tanh(|d| ln2 / 2).
struct Js : SoftmaxMember {
  static constexpr int kPlanes = 4;

  template <class V, class S>
  static SSSD_HOST_DEVICE void term(const Constants<S>& c, const Row<V>& row, V a, V b,
                                    Sums<V>& sums) {
    const V one = constant<V>(1), two = constant<V>(2);
    const Pair<V> pair = softmax_pair(row, V(c.scale), a, b);
    const V u = fast_div(pair.rest, one + pair.ratio);
    const LogPsi<V> up = log1p_psi(u);
    // psi(-u) - psi(u) = 2u - 2u log(1+u) - (1-u) |d|: a series where that cancels.
    const V square = u * u;
    const V near = two * u * square * polynomial(square, 1.0 / 6, 1.0 / 20, 1.0 / 42, 1.0 / 72);
    const V far = two * u * (one - up.log1p) - (one - u) * capped_natural(pair);
    const V down = up.psi + select(u < constant<V>(0.25), near, far);
    const V mean = where_mass(pair, constant<V>(0.5) * (pair.large + pair.small));
    const auto above = pair.d > constant<V>(0);
    sums.a = sums.a + mean * select(above, up.psi, down);
    sums.b = sums.b + mean * select(above, down, up.psi);
    sums.third = sums.third + two * mean * select(above, u, -u);
  }
  template <class V, class S>
  static SSSD_HOST_DEVICE V finish(const Constants<S>&, const Row<V>&, const Sums<V>& sums) {
    return constant<V>(0.5) * (sums.a + sums.b);
  }
  template <class V, class S, class Plane>
  static SSSD_HOST_DEVICE void save(const Constants<S>& c, const Row<V>& row, const Sums<V>& sums,
                                    Plane&& plane) {
    save_row(c, row, sums.third, plane);
    plane(2, sums.a);
    plane(3, sums.b);
  }
  template <class V, class S, class Plane>
  static SSSD_HOST_DEVICE Row<V> load(const Constants<S>& c, Plane&& plane) {
    return load_row(c, V(plane(0)), V(plane(1)), V(plane(2)), V(plane(3)));
  }
  template <class V, class S>
  static SSSD_HOST_DEVICE V saved_divergence(const Constants<S>&, const Row<V>& row) {
    return constant<V>(0.5) * (row.sum_a + row.sum_b);
  }
  template <class V, class S>
  static SSSD_HOST_DEVICE Gradients<V> gradient(const Constants<S>& c, const Row<V>& row, V a,
                                                V b) {
    const Pair<V> pair = softmax_pair(row, V(c.scale), a, b);
    const V u = fast_div(pair.rest, constant<V>(1) + pair.ratio);
    const V up = log1p_psi(u).log1p;
    const V down = up - capped_natural(pair);
    const auto above = pair.d > constant<V>(0);
    const V p = select(above, pair.large, pair.small), q = select(above, pair.small, pair.large);
    return {where_mass(pair, p * (select(above, up, down) - row.sum_a)),
            where_mass(pair, q * (select(above, down, up) - row.sum_b))};
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
    const auto near = fast_abs(x) < constant<V>(0.15);
    const V result = select(near, series, one_plus_x * log1p_x - x);
    log1p_x = select(near, fast_div(series + x, one_plus_x), log1p_x);
    return result;
  }
  template <class V>
  static SSSD_HOST_DEVICE Logs<V> logs(const Pair<V>& pair, V weight_large, V weight_small) {
    const V one = constant<V>(1);
    const V mean = weight_large + weight_small * pair.ratio;  // m / large
    Logs<V> l;
    l.up = -fast_log2(mean) * constant<V>(kLn2);
    l.down = l.up - capped_natural(pair);
    l.psi_up = psi(fast_div(weight_small * pair.rest, mean), fast_div(one, mean), l.up);
    l.psi_down = psi(-fast_div(weight_large * pair.rest, mean), fast_div(pair.ratio, mean), l.down);
    return l;
  }

  template <class V, class S>
  static SSSD_HOST_DEVICE void term(const Constants<S>& c, const Row<V>& row, V a, V b,
                                    Sums<V>& sums) {
    const V beta = V(c.beta), gamma = constant<V>(1) - beta;
    const Pair<V> pair = softmax_pair(row, V(c.scale), a, b);
    const auto above = pair.d > constant<V>(0);
    const V weight_large = select(above, beta, gamma), weight_small = select(above, gamma, beta);
    const Logs<V> l = logs(pair, weight_large, weight_small);
    const V large = where_mass(pair, pair.large);
    const V mean = large * (weight_large + weight_small * pair.ratio);
    sums.a = sums.a + mean * select(above, l.psi_up, l.psi_down);
    sums.b = sums.b + mean * select(above, l.psi_down, l.psi_up);
    sums.third = sums.third + large * select(above, pair.rest, -pair.rest);
  }
  template <class V, class S>
  static SSSD_HOST_DEVICE V finish(const Constants<S>& c, const Row<V>&, const Sums<V>& sums) {
    const V beta = V(c.beta);
    return beta * sums.a + (constant<V>(1) - beta) * sums.b;
  }
  template <class V, class S>
  static SSSD_HOST_DEVICE V saved_divergence(const Constants<S>& c, const Row<V>& row) {
    const V beta = V(c.beta);
    return beta * row.sum_a + (constant<V>(1) - beta) * row.sum_b;
  }
  template <class V, class S>
  static SSSD_HOST_DEVICE Gradients<V> gradient(const Constants<S>& c, const Row<V>& row, V a,
                                                V b) {
    const V beta = V(c.beta), gamma = constant<V>(1) - beta;
    const Pair<V> pair = softmax_pair(row, V(c.scale), a, b);
    const auto above = pair.d > constant<V>(0);
    const Logs<V> l = logs(pair, select(above, beta, gamma), select(above, gamma, beta));
    const V p = select(above, pair.large, pair.small), q = select(above, pair.small, pair.large);
    return {where_mass(pair, beta * p * (select(above, l.up, l.down) - row.sum_a)),
            where_mass(pair, gamma * q * (select(above, l.down, l.up) - row.sum_b))};
  }
};

// KL(q || p), teacher against student: the sum of q (e^x - 1 - x) with x = log p - log q.
struct Kl : SoftmaxMember {
  static constexpr int kPlanes = 3;

  template <class V, class S>
  static SSSD_HOST_DEVICE void term(const Constants<S>& c, const Row<V>& row, V a, V b,
                                    Sums<V>& sums) {
    const Pair<V> pair = softmax_pair(row, V(c.scale), a, b);
    const auto above = pair.d > constant<V>(0);
    const V x = pair.d * constant<V>(kLn2);
    const V q = select(above, pair.small, pair.large);
    const V near =
        q * x * x * polynomial(x, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040);
    const V far = pair.large * select(above, pair.rest - pair.ratio * capped_natural(pair),
                                      pair.t * constant<V>(kLn2) - pair.rest);
    const V term = select(pair.t < constant<V>(0.36), near, far);
    sums.a = sums.a + where_mass(pair, term);
    sums.third = sums.third + where_mass(pair, pair.large * select(above, pair.rest, -pair.rest));
  }
  template <class V, class S>
  static SSSD_HOST_DEVICE V finish(const Constants<S>&, const Row<V>&, const Sums<V>& sums) {
    return sums.a;
  }
  template <class V, class S, class Plane>
  static SSSD_HOST_DEVICE void save(const Constants<S>& c, const Row<V>& row, const Sums<V>& sums,
                                    Plane&& plane) {
    save_row(c, row, sums.third, plane);
    plane(2, sums.a);
  }
  template <class V, class S, class Plane>
  static SSSD_HOST_DEVICE Row<V> load(const Constants<S>& c, Plane&& plane) {
    return load_row(c, V(plane(0)), V(plane(1)), V(plane(2)), constant<V>(0));
  }
  template <class V, class S>
  static SSSD_HOST_DEVICE V saved_divergence(const Constants<S>&, const Row<V>& row) {
    return row.sum_a;
  }
  template <class V, class S>
  static SSSD_HOST_DEVICE Gradients<V> gradient(const Constants<S>& c, const Row<V>& row, V a,
                                                V b) {
    const Pair<V> pair = softmax_pair(row, V(c.scale), a, b);
    const auto above = pair.d > constant<V>(0);
    const V x = select(above, capped_natural(pair), pair.d * constant<V>(kLn2));
    const V q = select(above, pair.small, pair.large);
    return {where_mass(pair, pair.large * select(above, pair.rest, -pair.rest)),
            where_mass(pair, q * (-x - row.sum_a))};
  }
};

// The squared distance of two softmaxes: sum (p - q)^2.
struct SoftmaxMse : SoftmaxMember {
  static constexpr int kPlanes = 5;
  template <class V>
  struct Sums : RowSums<V> {
    V value = constant<V>(0);
    SSSD_HOST_DEVICE void add(const Sums& other) {
      RowSums<V>::add(other);
      value = value + other.value;
    }
  };
  template <class V>
  struct Row : SoftmaxRow<V> {
    V value;
  };

  template <class V, class S>
  static SSSD_HOST_DEVICE Row<V> prepare(const Constants<S>& c, const Stats<V>& a,
                                         const Stats<V>& b) {
    return {SoftmaxRow<V>::prepare(a, b, V(c.scale)), constant<V>(0)};
  }
  template <class V, class S>
  static SSSD_HOST_DEVICE void term(const Constants<S>& c, const Row<V>& row, V a, V b,
                                    Sums<V>& sums) {
    const Pair<V> pair = softmax_pair(row, V(c.scale), a, b);
    const auto above = pair.d > constant<V>(0);
    const V gap = where_mass(pair, pair.large * select(above, pair.rest, -pair.rest));  // p - q
    const V p = select(above, pair.large, pair.small), q = select(above, pair.small, pair.large);
    sums.value = sums.value + gap * gap;
    sums.a = sums.a + p * gap;
    sums.b = sums.b - q * gap;
    sums.third = sums.third + gap;
  }
  template <class V, class S>
  static SSSD_HOST_DEVICE V finish(const Constants<S>&, const Row<V>&, const Sums<V>& sums) {
    return sums.value;
  }
  template <class V, class S, class Plane>
  static SSSD_HOST_DEVICE void save(const Constants<S>& c, const Row<V>& row, const Sums<V>& sums,
                                    Plane&& plane) {
    save_row(c, row, sums.third, plane);
    plane(2, sums.a);
    plane(3, sums.b);
    plane(4, sums.value);
  }
  template <class V, class S, class Plane>
  static SSSD_HOST_DEVICE Row<V> load(const Constants<S>& c, Plane&& plane) {
    return {load_row(c, V(plane(0)), V(plane(1)), V(plane(2)), V(plane(3))), V(plane(4))};
  }
  template <class V, class S>
  static SSSD_HOST_DEVICE V saved_divergence(const Constants<S>&, const Row<V>& row) {
    return row.value;
  }
  template <class V, class S>
  static SSSD_HOST_DEVICE Gradients<V> gradient(const Constants<S>& c, const Row<V>& row, V a,
                                                V b) {
    const Pair<V> pair = softmax_pair(row, V(c.scale), a, b);
    const auto above = pair.d > constant<V>(0);
    const V gap = where_mass(pair, pair.large * select(above, pair.rest, -pair.rest));
    const V p = select(above, pair.large, pair.small), q = select(above, pair.small, pair.large);
    return {where_mass(pair, p * (gap - row.sum_a)), where_mass(pair, q * (-gap - row.sum_b))};
  }
};

// ---- affine rows: y = (a - shift) scale ---------------------------------------------------------

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

// Squared error of normalized rows: D = sum (y - z)^2; for unit rows 1 - cosine = sum (y - z)^2
// / 2.
struct Affine {
  static constexpr int kPlanes = 7;  // 1 where nothing is normalized
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
  template <class V, class S>
  static SSSD_HOST_DEVICE void term(const Constants<S>&, const Row<V>& row, V a, V b,
                                    Sums<V>& sums) {
    const V y = (a - row.side_a.shift) * row.side_a.scale;
    const V z = (b - row.side_b.shift) * row.side_b.scale;
    const V gap = y - z;
    sums.a = sums.a + y * gap;
    sums.b = sums.b - z * gap;
    sums.third = sums.third + gap * gap;
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
  template <class V, class S>
  static SSSD_HOST_DEVICE V saved_divergence(const Constants<S>&, const Row<V>& row) {
    return row.value;
  }
  template <class V, class S>
  static SSSD_HOST_DEVICE Gradients<V> gradient(const Constants<S>&, const Row<V>& row, V a, V b) {
    const V y = (a - row.side_a.shift) * row.side_a.scale;
    const V z = (b - row.side_b.shift) * row.side_b.scale;
    const V gap = y - z;
    return {gap * row.side_a.scale - y * row.bend_a, -gap * row.side_b.scale - z * row.bend_b};
  }
};

}  // namespace sssd::divergence
