// Forward and backward of one member on the CPU, for any level: the two sweeps over a unit run
// while it is in cache.
#pragma once

#include "kernels/divergence/cpu.h"
#include "kernels/divergence/cpu_tiles.h"
#include "kernels/divergence/members.h"

namespace sssd::divergence::SSSD_ISA {

// ---- row statistics of a run --------------------------------------------------------------------

template <class S, class V = Lanes<S>>
SSSD_INLINE void add_run(const Run& run, Side a, Side b, const Constants<S>& c,
                         SoftmaxStats<V>& stats_a, SoftmaxStats<V>& stats_b) {
  const V scale(c.scale), low = -infinity<V>();
  for_blocks<S>(run, a, b, low, low, [&](auto count, const V* x, const V* y, int64_t, int) {
    V max_a = stats_a.max, max_b = stats_b.max;
    for (int i = 0; i < count.value; ++i) {
      max_a = larger(x[i], max_a);
      max_b = larger(y[i], max_b);
    }
    stats_a.raise(max_a, scale);
    stats_b.raise(max_b, scale);
    for (int i = 0; i < count.value; ++i) {
      stats_a.add(x[i], scale);
      stats_b.add(y[i], scale);
    }
  });
}

// Deviations are taken from the mean of the run, which a first sweep finds.
template <class S, class V = Lanes<S>>
SSSD_INLINE void add_run(const Run& run, Side a, Side b, const Constants<S>& c, Moments<V>& stats_a,
                         Moments<V>& stats_b, bool strided) {
  const V zero(S(0));
  if (!c.normalized) return;
  Moments<V> part_a, part_b;
  const int64_t elements = strided ? run.count : (run.count - 1) * V::kCount + run.valid_last;
  part_a.count = part_b.count = V(S(elements));
  if (c.centre) {
    V sum_a = zero, sum_b = zero;
    for_blocks<S>(run, a, b, zero, zero, [&](auto count, const V* x, const V* y, int64_t, int) {
      for (int i = 0; i < count.value; ++i) sum_a = sum_a + x[i], sum_b = sum_b + y[i];
    });
    if (!strided) sum_a = V(sum_lanes(sum_a)), sum_b = V(sum_lanes(sum_b));
    part_a.mean = fast_div(sum_a, part_a.count);
    part_b.mean = fast_div(sum_b, part_b.count);
  }
  for_blocks<S>(run, a, b, part_a.mean, part_b.mean,
                [&](auto count, const V* x, const V* y, int64_t, int) {
                  for (int i = 0; i < count.value; ++i) {
                    const V from_a = x[i] - part_a.mean, from_b = y[i] - part_b.mean;
                    part_a.squares = part_a.squares + from_a * from_a;
                    part_b.squares = part_b.squares + from_b * from_b;
                  }
                });
  if (!strided) {
    part_a.squares = V(sum_lanes(part_a.squares));
    part_b.squares = V(sum_lanes(part_b.squares));
  }
  stats_a.merge(part_a, zero);
  stats_b.merge(part_b, zero);
}

// Where lanes are elements of one row: the row's statistics, in every lane.
template <class S, class V = Lanes<S>>
SSSD_INLINE void join_lanes(SoftmaxStats<V>& stats, V scale) {
  stats.raise(V(max_lanes(stats.max)), scale);
  stats.sum = V(sum_lanes(stats.sum));
}

template <class M, class S>
struct Kernel {
  using V = Lanes<S>;
  using Stats = typename M::template Stats<V>;
  using Row = typename M::template Row<V>;
  using Sums = typename M::template Sums<V>;
  static constexpr bool kSoftmax = M::kSoftmax;

  struct Both {
    Stats a, b;
  };

  static SSSD_INLINE void statistics(const Constants<S>& c, const Plan<S>& plan, const Run& run,
                                     Side a, Side b, Both& stats) {
    if constexpr (kSoftmax) {
      add_run<S>(run, a, b, c, stats.a, stats.b);
      if (!plan.strided) {
        join_lanes<S>(stats.a, V(c.scale));
        join_lanes<S>(stats.b, V(c.scale));
      }
    } else {
      add_run<S>(run, a, b, c, stats.a, stats.b, plan.strided);
    }
  }

  // Sums of the terms of a run; where lanes are elements, still to be added across lanes.
  static SSSD_INLINE void terms(const Constants<S>& c, const Run& run, Side a, Side b,
                                const Row& row, Sums& sums) {
    for_blocks<S, true>(run, a, b, padding(row, true), padding(row, false),
                        [&](auto count, const V* x, const V* y, int64_t, int) {
                          for (int i = 0; i < count.value; ++i) M::term(c, row, x[i], y[i], sums);
                        });
  }
  // An element that adds nothing to a row.
  static SSSD_INLINE V padding(const Row& row, bool first) {
    if constexpr (kSoftmax)
      return -infinity<V>();
    else
      return first ? row.side_a.shift : row.side_b.shift;
  }

  // Ends a unit's group: saves its rows, returns what they add to the level (sum, weights).
  struct Partial {
    double sum = 0, weights = 0;
  };
  static SSSD_INLINE Partial finish(const Settings& settings, const Constants<S>& c,
                                    const Level& level, const Plan<S>& plan, int64_t unit,
                                    int group, const Row& row, Sums sums, S* saved,
                                    int64_t plane_size) {
    if (!plan.strided) sums.each([](V& x) { x = V(sum_lanes(x)); });
    const int rows = plan.rows(level, unit, group);
    const int64_t first = plan.first_row(level, unit) + group * V::kCount;
    M::save(c, row, sums, [&](int plane, V x) {
      std::memcpy(saved + plane * plane_size + level.row0 + first, &x, rows * sizeof(S));
    });
    const V zero(S(0)), one(S(1));
    V share = contribution(settings, level.row_length(), M::finish(c, row, sums));
    V weight = one;
    if (level.weights) {
      weight = load_weights(level.weights + first, rows);
      share = select(weight == zero, zero, share * weight);  // a row left out may hold NaN
    }
    const auto held = first_lanes<S>(rows);
    return {double(sum_lanes(select(held, share, zero))),
            double(sum_lanes(select(held, weight, zero)))};
  }
  static SSSD_INLINE V load_weights(const float* weights, int rows) {
    V x(S(0));
    for (int i = 0; i < rows; ++i) x.raw[i] = S(weights[i]);
    return x;
  }

  // ---- backward
  // -----------------------------------------------------------------------------------

  // `scale`: what the level's value passes on to a contribution.
  static SSSD_INLINE void gradients(const Settings& settings, const Constants<S>& c,
                                    const Level& level, const Plan<S>& plan, int64_t unit,
                                    int64_t piece, int group, Side a, Side b, const S* saved,
                                    int64_t plane_size, S scale) {
    const int rows = plan.rows(level, unit, group);
    if (rows == 0) return;
    const int64_t first = plan.first_row(level, unit) + group * V::kCount;
    const Row row = M::template load<V>(c, [&](int plane) {
      const S* at = saved + plane * plane_size + level.row0 + first;
      V x(plan.strided ? S(0) : *at);
      if (plan.strided) std::memcpy(&x, at, rows * sizeof(S));
      return x;
    });
    V slope = contribution_slope(settings, level.row_length(), M::saved_divergence(c, row));
    slope = slope * V(scale * c.gradient_scale);
    const V zero(S(0));
    if (level.weights) {
      const V weight =
          plan.strided ? load_weights(level.weights + first, rows) : V(S(level.weights[first]));
      slope = select(weight == zero, zero, slope * weight);
    }
    const auto still = slope == zero;  // no gradient, whatever the row holds
    const Run run = plan.run(level, unit, piece, group);
    char* to_a = const_cast<char*>(at(level.grad_student, a.dtype, run.offset));
    char* to_b = const_cast<char*>(at(level.grad_teacher, b.dtype, run.offset));
    const int64_t step_a = run.step * bytes_of(a.dtype), step_b = run.step * bytes_of(b.dtype);
    const bool need_a = level.grad_student != nullptr, need_b = level.grad_teacher != nullptr;
    for_blocks<S, true>(run, a, b, padding(row, true), padding(row, false),
                        [&](auto count, V* x, V* y, int64_t index, int valid) {
                          constexpr int n = decltype(count)::value;
                          for (int i = 0; i < n; ++i) {
                            const Gradients<V> g = M::gradient(c, row, x[i], y[i]);
                            x[i] = select(still, zero, slope * g.a);
                            y[i] = select(still, zero, slope * g.b);
                          }
                          if (n == 1) {
                            if (need_a) store_first(to_a + index * step_a, a.dtype, valid, x[0]);
                            if (need_b) store_first(to_b + index * step_b, b.dtype, valid, y[0]);
                          } else {
                            if (need_a)
                              store_vectors<S, n>(to_a + index * step_a, a.dtype, step_a, x);
                            if (need_b)
                              store_vectors<S, n>(to_b + index * step_b, b.dtype, step_b, y);
                          }
                        });
  }
};

}  // namespace sssd::divergence::SSSD_ISA
