// Forward and backward of one member on the CPU, for any level: the two sweeps over a unit run
// while it is in cache.
#pragma once

#include "kernels/common/twice.h"
#include "kernels/divergence/cpu_tiles.h"
#include "kernels/divergence/members.h"

namespace sssd::divergence::SSSD_ISA {

// ---- row statistics of a run, for each of its groups --------------------------------------------

template <class Stats>
struct Both {
  Stats a, b;
};

// Joins neighbours, then neighbours of those: short chains, which a processor works on side by
// side, and short sums, which round less.
template <class T, int N, class Join>
SSSD_INLINE T join_all(const T (&x)[N], Join&& join) {
  if constexpr (N == 1) {
    return x[0];
  } else {
    T half[N / 2];
    for (int i = 0; i < N / 2; ++i) half[i] = join(x[2 * i], x[2 * i + 1]);
    return join_all(half, join);
  }
}

// Where lanes are elements of one row: the row's statistics, in every lane.
template <class V, class S>
SSSD_INLINE void join_lanes(SoftmaxStats<V>& stats, S scale) {
  stats.raise(V(max_lanes(stats.max)), V(scale));
  stats.sum = V(sum_lanes(stats.sum));
}

template <class S, class A, class B, class V = Lanes<S>>
void statistics(const Run& run, A a, B b, const Constants<S>& c, bool strided,
                Both<SoftmaxStats<V>>* stats) {
  const V scale(c.scale), low = -infinity<V>();
  const auto largest = [](V x, V y) { return larger(x, y); };
  const auto sum = [](Twice<V> x, Twice<V> y) { return x + y; };
  for (int group = 0; group < run.groups; ++group) stats[group] = {};
  for_blocks<S>(
      run, a, b, [&](int) { return Gradients<V>{low, low}; },
      [&](auto count, int group, auto&& load_x, auto&& load_y, int64_t, int) {
        V x[count.value], y[count.value];
        for (int i = 0; i < count.value; ++i) x[i] = load_x(i), y[i] = load_y(i);
        Both<SoftmaxStats<V>> s = stats[group];
        s.a.raise(larger(join_all(x, largest), s.a.max), scale);
        s.b.raise(larger(join_all(y, largest), s.b.max), scale);
        const Twice<V> anchors(SoftmaxStats<V>::anchor(s.a.max), SoftmaxStats<V>::anchor(s.b.max));
        Twice<V> masses[count.value];
        for (int i = 0; i < count.value; ++i)
          masses[i] = fast_exp2((Twice<V>(x[i], y[i]) - anchors) * Twice<V>(scale));
        const Twice<V> block = join_all(masses, sum);
        s.a.sum = s.a.sum + block.first;
        s.b.sum = s.b.sum + block.second;
        stats[group] = s;
      });
  if (strided) return;
  join_lanes(stats[0].a, c.scale);
  join_lanes(stats[0].b, c.scale);
}

// Deviations are taken from the mean of the run, which a first sweep finds.
template <class S, class A, class B, class V = Lanes<S>>
void statistics(const Run& run, A a, B b, const Constants<S>& c, bool strided,
                Both<Moments<V>>* stats) {
  for (int group = 0; group < run.groups; ++group) stats[group] = {};
  if (!c.normalized) return;
  const V zero(S(0));
  const V count(S(strided ? run.count : (run.count - 1) * V::kCount + run.valid_last));
  const auto mean_of = [&](V sum) { return fast_div(strided ? sum : V(sum_lanes(sum)), count); };
  if (c.centre) {
    for_blocks<S>(
        run, a, b, [&](int) { return Gradients<V>{zero, zero}; },
        [&](auto n, int group, auto&& x, auto&& y, int64_t, int) {
          V sum_a = zero, sum_b = zero;  // short sums round less
          for (int i = 0; i < n.value; ++i) sum_a = sum_a + x(i), sum_b = sum_b + y(i);
          stats[group].a.mean = stats[group].a.mean + sum_a;
          stats[group].b.mean = stats[group].b.mean + sum_b;
        });
  }
  for (int group = 0; group < run.groups; ++group) {
    stats[group].a = {count, mean_of(stats[group].a.mean), zero};
    stats[group].b = {count, mean_of(stats[group].b.mean), zero};
  }
  for_blocks<S>(
      run, a, b, [&](int group) { return Gradients<V>{stats[group].a.mean, stats[group].b.mean}; },
      [&](auto n, int group, auto&& x, auto&& y, int64_t, int) {
        Both<Moments<V>>& s = stats[group];
        V sum_a = zero, sum_b = zero;
        for (int i = 0; i < n.value; ++i) {
          const V from_a = x(i) - s.a.mean, from_b = y(i) - s.b.mean;
          sum_a = sum_a + from_a * from_a, sum_b = sum_b + from_b * from_b;
        }
        s.a.squares = s.a.squares + sum_a;
        s.b.squares = s.b.squares + sum_b;
      });
  if (strided) return;
  stats[0].a.squares = V(sum_lanes(stats[0].a.squares));
  stats[0].b.squares = V(sum_lanes(stats[0].b.squares));
}

// T is a struct of vectors. Lane i of `all` becomes lane 0 of `one`; and back, in every lane.
template <class S, class T>
SSSD_INLINE void put_lane(T& all, int i, const T& one) {
  char* to = reinterpret_cast<char*>(&all) + i * sizeof(S);
  const char* from = reinterpret_cast<const char*>(&one);
  for (size_t at = 0; at < sizeof(T); at += kVectorBytes)
    std::memcpy(to + at, from + at, sizeof(S));
}
template <class S, class T>
SSSD_INLINE T one_lane(const T& all, int i) {
  T one;
  const char* from = reinterpret_cast<const char*>(&all) + i * sizeof(S);
  for (size_t at = 0; at < sizeof(T); at += kVectorBytes) {
    S x;
    std::memcpy(&x, from + at, sizeof x);
    const Lanes<S> spread(x);
    std::memcpy(reinterpret_cast<char*>(&one) + at, &spread, sizeof spread);
  }
  return one;
}

template <class M, class S>
struct Kernel {
  using V = Lanes<S>;
  using Stats = Both<typename M::template Stats<V>>;
  using Row = typename M::template Row<V>;
  using Sums = typename M::template Sums<V>;

  // Sums of the terms of a run; where lanes are elements, still to be added across lanes.
  template <class A, class B>
  static void terms(const Constants<S>& c, const Run& run, A a, B b, const Row* rows, Sums* sums) {
    for (int group = 0; group < run.groups; ++group) sums[group] = {};
    for_blocks<S>(
        run, a, b, [&](int group) { return padding(rows[group]); },
        [&](auto count, int group, auto&& x, auto&& y, int64_t, int) {
          const Row row = rows[group];
          Sums block;  // short sums round less
          if constexpr (count.value == 1)
            M::term(c, row, x(0), y(0), block);
          else
            for (int i = 0; i < count.value; i += 2)
              M::term(c, row, Twice<V>(x(i), x(i + 1)), Twice<V>(y(i), y(i + 1)), block);
          sums[group].add(block);
        });
  }
  // Elements that add nothing to a row.
  static SSSD_INLINE Gradients<V> padding(const Row& row) {
    if constexpr (M::kSoftmax)
      return {-infinity<V>(), -infinity<V>()};
    else
      return {row.side_a.shift, row.side_b.shift};
  }

  // Ends neighbouring rows, a lane each: saves them, returns what they add to the level (sum,
  // weights).
  struct Partial {
    double sum = 0, weights = 0;
    SSSD_INLINE void add(const Partial& other) { sum += other.sum, weights += other.weights; }
  };
  static SSSD_INLINE Partial finish(const Settings& settings, const Constants<S>& c,
                                    const Level& level, int64_t first, int rows, const Row& row,
                                    const Sums& sums, S* saved, int64_t plane_size) {
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

  // ---- backward --------------------------------------------------------------------------------

  // The rows of a group as backward sees them, and what each passes on to its elements.
  struct GradientRow {
    Row row;
    V slope;
  };

  // `scale`: what the level's value passes on to a contribution.
  static SSSD_INLINE GradientRow gradient_row(const Settings& settings, const Constants<S>& c,
                                              const Level& level, const Plan<S>& plan, int64_t unit,
                                              int group, const S* saved, int64_t plane_size,
                                              S scale) {
    const int rows = plan.rows(level, unit, group);
    const int64_t first = plan.first_row(level, unit) + group * V::kCount;
    GradientRow result;
    result.row = M::template load<V>(c, [&](int plane) {
      const S* at = saved + plane * plane_size + level.row0 + first;
      V x(plan.strided ? S(0) : *at);
      if (plan.strided) std::memcpy(&x, at, rows * sizeof(S));
      return x;
    });
    const V slope = contribution_slope(settings, level.row_length(), result.row.value);
    result.slope = slope * V(scale * c.gradient_scale);
    if (level.weights) {
      const V zero(S(0));
      const V weight =
          plan.strided ? load_weights(level.weights + first, rows) : V(S(level.weights[first]));
      result.slope = select(weight == zero, zero, result.slope * weight);
    }
    return result;
  }

  template <class A, class B>
  static void gradients(const Settings& settings, const Constants<S>& c, const Level& level,
                        const Plan<S>& plan, int64_t unit, int64_t piece, A a, B b, const S* saved,
                        int64_t plane_size, S scale) {
    const Run run = plan.run(level, unit, piece);
    GradientRow rows[kGroups];
    for (int group = 0; group < run.groups; ++group)
      rows[group] = gradient_row(settings, c, level, plan, unit, group, saved, plane_size, scale);
    const Target<A> to_a(level.grad_student, a, level, run);
    const Target<B> to_b(level.grad_teacher, b, level, run);
    for_blocks<S>(
        run, a, b, [&](int group) { return padding(rows[group].row); },
        [&](auto count, int group, auto&& x, auto&& y, int64_t index, int valid) {
          if (count.value > 1 && run.step != V::kCount)
            to_a.fetch(index + kBlock, group, run), to_b.fetch(index + kBlock, group, run);
          const GradientRow from = rows[group];
          const V zero(S(0));
          const auto still = from.slope == zero;  // no gradient, whatever the row holds
          const auto scaled = [&](V gradient) {
            return select(still, zero, from.slope * gradient);
          };
          if constexpr (count.value == 1) {
            const Gradients<V> g = M::gradient(c, from.row, x(0), y(0));
            to_a.write_first(group, index, valid, scaled(g.a));
            to_b.write_first(group, index, valid, scaled(g.b));
          } else {
            for (int i = 0; i < count.value; i += 2) {
              const Gradients<Twice<V>> g =
                  M::gradient(c, from.row, Twice<V>(x(i), x(i + 1)), Twice<V>(y(i), y(i + 1)));
              to_a.write(group, index + i, scaled(g.a.first), scaled(g.a.second));
              to_b.write(group, index + i, scaled(g.b.first), scaled(g.b.second));
            }
          }
        });
    if (to_a.streams || to_b.streams) end_stream();
  }

  // Where a side's gradient goes, if it is asked for. Its dtype is the side's.
  template <class Side>
  struct Target {
    Side like;
    char* data;
    int64_t step, group_bytes;
    bool streams;

    SSSD_INLINE Target(void* gradient, Side like, const Level& level, const Run& run)
        : like(like),
          data(gradient ? static_cast<char*>(gradient) + run.offset * bytes_of(like.dtype)
                        : nullptr),
          step(run.step * bytes_of(like.dtype)),
          group_bytes(V::kCount * bytes_of(like.dtype)),
          streams(may_stream<S>(data, like.dtype, step,
                                level.rows() * level.row_length() * bytes_of(like.dtype))) {}

    // A group's lines in a block to come.
    SSSD_INLINE void fetch(int64_t index, int group, const Run& run) const {
      if (!data || streams || index + kBlock > run.count) return;
      const char* to = data + index * step + group * group_bytes;
      for (int i = 0; i < kBlock; ++i) __builtin_prefetch(to + i * step, 1);
    }
    // Two vectors of a group, one after the other in its rows.
    SSSD_INLINE void write(int group, int64_t index, V first, V second) const {
      if (!data) return;
      char* to = data + index * step + group * group_bytes;
      if (streams) {
        stream(to, first);
        stream(to + step, second);
      } else {
        store(to, like.dtype, first);
        store(to + step, like.dtype, second);
      }
    }
    SSSD_INLINE void write_first(int group, int64_t index, int valid, V x) const {
      if (data) store_first(data + index * step + group * group_bytes, like.dtype, valid, x);
    }
  };
};

}  // namespace sssd::divergence::SSSD_ISA
