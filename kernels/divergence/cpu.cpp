// The divergence family on the CPU: runs a call's units and pieces as tasks, and adds up what they
// leave in index order. Compiled once for each instruction set: SSSD_ISA names it (CMakeLists.txt).
#include <new>

#include "kernels/divergence/cpu_kernels.h"

namespace sssd::divergence::SSSD_ISA {

template <class M, class S>
struct Driver {
  using K = Kernel<M, S>;
  using V = typename K::V;
  using Partial = typename K::Partial;
  using Stats = typename K::Stats;
  using Row = typename K::Row;
  using Sums = typename K::Sums;

  // What a piece of a split unit leaves: first its statistics, then its sums, group by group.
  struct Piece {
    Stats stats[kGroups];
    Sums sums[kGroups];
  };

  static int64_t align(int64_t bytes) { return (bytes + 63) / 64 * 64; }

  // Workspace: one Partial a task of every level, then the pieces of the split levels.
  static int64_t partials_bytes(const Levels& levels) {
    int64_t tasks = 0;
    for (int l = 0; l < levels.count; ++l) {
      const Plan<S> plan(levels.level[l]);
      tasks += plan.split ? plan.units : plan.tasks;
    }
    return align(tasks * int64_t(sizeof(Partial)));
  }
  static int64_t workspace_bytes(const Levels& levels) {
    int64_t pieces = 0;
    for (int l = 0; l < levels.count; ++l) {
      const Plan<S> plan(levels.level[l]);
      if (plan.split) pieces += plan.units * plan.pieces;
    }
    return partials_bytes(levels) + pieces * int64_t(sizeof(Piece)) + 64;
  }

  // A level's place in the call.
  struct Place {
    Plan<S> plan;
    Constants<S> constants;
    Partial* partials;
    Piece* pieces;
    int64_t tasks_before;
  };

  // The first piece of a split unit gets the statistics of all.
  static void join_pieces(const Level& level, const Place& place) {
    for (int64_t unit = 0; unit < place.plan.units; ++unit) {
      Piece* pieces = place.pieces + unit * place.plan.pieces;
      for (int group = 0; group < place.plan.groups(level, unit); ++group)
        for (int64_t i = 1; i < place.plan.pieces; ++i)
          merge(place, pieces[0].stats[group], pieces[i].stats[group]);
    }
  }
  static Constants<S> constants_of(const Settings& settings, const Level& level) {
    return {settings, level.row_length(), M::gradient_scale(settings)};
  }
  static Row prepare(const Place& place, const Stats& all) {
    return M::prepare(place.constants, all.a, all.b);
  }
  static SSSD_INLINE void merge(const Place& place, Stats& all, const Stats& part) {
    all.a.merge(part.a, V(place.constants.scale));
    all.b.merge(part.b, V(place.constants.scale));
  }

  static void forward(const ForwardCall<S>& call) {
    const Levels& levels = call.levels;
    alignas(Place) char storage[sizeof(Place) * kMaxLevels];
    Place* places = reinterpret_cast<Place*>(storage);
    char* workspace = static_cast<char*>(call.workspace);
    workspace += (64 - reinterpret_cast<uintptr_t>(workspace) % 64) % 64;
    Partial* partials = reinterpret_cast<Partial*>(workspace);
    Piece* pieces = reinterpret_cast<Piece*>(workspace + partials_bytes(levels));
    int64_t tasks = 0, split_tasks = 0;
    for (int l = 0; l < levels.count; ++l) {
      const Level& level = levels.level[l];
      new (places + l)
          Place{Plan<S>(level), constants_of(call.settings, level), partials, pieces, tasks};
      const Plan<S>& plan = places[l].plan;
      tasks += plan.tasks;
      partials += plan.split ? plan.units : plan.tasks;
      if (plan.split) pieces += plan.units * plan.pieces, split_tasks += plan.tasks;
    }

    each_task(call.parallel, places, levels.count, Order::ascending, [&](int l, int64_t task) {
      const Place& place = places[l];
      if (place.plan.split)
        piece_statistics(levels, levels.level[l], place, task);
      else
        place.partials[task] = whole_units(call, levels.level[l], place, task);
    });
    if (split_tasks > 0) {
      for (int l = 0; l < levels.count; ++l)
        if (places[l].plan.split) join_pieces(levels.level[l], places[l]);
      each_task(call.parallel, places, levels.count, Order::ascending, [&](int l, int64_t task) {
        if (places[l].plan.split) piece_terms(levels, levels.level[l], places[l], task);
      });
    }
    for (int l = 0; l < levels.count; ++l) {
      const Level& level = levels.level[l];
      const Place& place = places[l];
      Partial total;
      const int64_t count = place.plan.split ? place.plan.units : place.plan.tasks;
      for (int64_t i = 0; i < count; ++i) {
        const Partial part =
            place.plan.split ? split_unit(call, level, place, i) : place.partials[i];
        total.add(part);
      }
      const auto value = level_value<double>(call.settings, total.sum, total.weights);
      call.values[l] = S(value.value);
      call.factors[l] = S(value.factor);
    }
  }

  // body(level, task of the level) over the tasks of all levels.
  template <class F>
  static void each_task(ParallelFor parallel, const Place* places, int levels, Order order,
                        F&& body) {
    const int64_t tasks = places[levels - 1].tasks_before + places[levels - 1].plan.tasks;
    run_tasks(parallel, tasks, order, [&] {
      return [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; ++task) {
          int l = 0;
          while (l + 1 < levels && task >= places[l + 1].tasks_before) ++l;
          body(l, task - places[l].tasks_before);
        }
      };
    });
  }

  // Both sweeps over the units of a task, each while it is in cache.
  static Partial whole_units(const ForwardCall<S>& call, const Level& level, const Place& place,
                             int64_t task) {
    const Plan<S>& plan = place.plan;
    const int64_t begin = task * plan.units_a_task;
    const int64_t end =
        begin + plan.units_a_task < plan.units ? begin + plan.units_a_task : plan.units;
    Partial total;
    if (plan.strided)
      for (int64_t unit = begin; unit < end; ++unit)
        total.add(whole_strip(call, level, place, unit));
    else
      for (int64_t unit = begin; unit < end; unit += plan.rows_together)
        total.add(
            whole_rows(call, level, place, unit,
                       int(end - unit < plan.rows_together ? end - unit : plan.rows_together)));
    return total;
  }

  static Partial whole_strip(const ForwardCall<S>& call, const Level& level, const Place& place,
                             int64_t unit) {
    const Plan<S>& plan = place.plan;
    const int groups = plan.groups(level, unit);
    Stats all[kGroups];
    unit_statistics(call.levels, level, place, unit, all);
    Row rows[kGroups];
    for (int group = 0; group < groups; ++group) rows[group] = prepare(place, all[group]);
    Sums sums[kGroups];
    unit_terms(call.levels, level, place, unit, rows, sums);
    Partial total;
    for (int group = 0; group < groups; ++group)
      total.add(finish(call, level, place, plan.first_row(level, unit) + group * V::kCount,
                       plan.rows(level, unit, group), rows[group], sums[group]));
    return total;
  }

  // Contiguous rows, a lane each where they begin and end.
  static Partial whole_rows(const ForwardCall<S>& call, const Level& level, const Place& place,
                            int64_t first, int count) {
    Stats all;
    for (int i = 0; i < count; ++i) {
      Stats one;
      unit_statistics(call.levels, level, place, first + i, &one);
      put_lane<S>(all, i, one);
    }
    const Row rows = prepare(place, all);
    Sums sums;
    for (int i = 0; i < count; ++i) {
      const Row row = one_lane<S>(rows, i);
      Sums one;
      unit_terms(call.levels, level, place, first + i, &row, &one);
      one.each([](V& x) { x = V(sum_lanes(x)); });
      put_lane<S>(sums, i, one);
    }
    return finish(call, level, place, first, count, rows, sums);
  }

  static SSSD_INLINE void unit_statistics(const Levels& levels, const Level& level,
                                          const Place& place, int64_t unit, Stats* all) {
    const Plan<S>& plan = place.plan;
    with_sides(levels, level, [&](auto a, auto b) {
      statistics(plan.run(level, unit, 0), a, b, place.constants, plan.strided, all);
      for (int64_t piece = 1; piece < plan.pieces; ++piece) {
        Stats part[kGroups];
        statistics(plan.run(level, unit, piece), a, b, place.constants, plan.strided, part);
        for (int group = 0; group < plan.groups(level, unit); ++group)
          merge(place, all[group], part[group]);
      }
    });
  }
  static SSSD_INLINE void unit_terms(const Levels& levels, const Level& level, const Place& place,
                                     int64_t unit, const Row* rows, Sums* sums) {
    const Plan<S>& plan = place.plan;
    with_sides(levels, level, [&](auto a, auto b) {
      K::terms(place.constants, plan.run(level, unit, 0), a, b, rows, sums);
      for (int64_t piece = 1; piece < plan.pieces; ++piece) {
        Sums part[kGroups];
        K::terms(place.constants, plan.run(level, unit, piece), a, b, rows, part);
        for (int group = 0; group < plan.groups(level, unit); ++group) sums[group].add(part[group]);
      }
    });
  }
  static SSSD_INLINE Partial finish(const ForwardCall<S>& call, const Level& level,
                                    const Place& place, int64_t first_row, int count,
                                    const Row& rows, const Sums& sums) {
    return K::finish(call.settings, place.constants, level, first_row, count, rows, sums,
                     call.saved, call.levels.rows);
  }

  static void piece_statistics(const Levels& levels, const Level& level, const Place& place,
                               int64_t task) {
    const int64_t unit = task / place.plan.pieces, piece = task % place.plan.pieces;
    const Run run = place.plan.run(level, unit, piece);
    with_sides(levels, level, [&](auto a, auto b) {
      statistics(run, a, b, place.constants, place.plan.strided, place.pieces[task].stats);
    });
  }

  static void piece_terms(const Levels& levels, const Level& level, const Place& place,
                          int64_t task) {
    const int64_t unit = task / place.plan.pieces, piece = task % place.plan.pieces;
    Row rows[kGroups];
    for (int group = 0; group < place.plan.groups(level, unit); ++group)
      rows[group] = prepare(place, place.pieces[unit * place.plan.pieces].stats[group]);
    const Run run = place.plan.run(level, unit, piece);
    with_sides(levels, level, [&](auto a, auto b) {
      K::terms(place.constants, run, a, b, rows, place.pieces[task].sums);
    });
  }

  static Partial split_unit(const ForwardCall<S>& call, const Level& level, const Place& place,
                            int64_t unit) {
    Partial total;
    const Piece* pieces = place.pieces + unit * place.plan.pieces;
    for (int group = 0; group < place.plan.groups(level, unit); ++group) {
      const Row row = prepare(place, pieces[0].stats[group]);
      Sums sums = pieces[0].sums[group];
      for (int64_t i = 1; i < place.plan.pieces; ++i) sums.add(pieces[i].sums[group]);
      if (!place.plan.strided) sums.each([](V& x) { x = V(sum_lanes(x)); });
      total.add(finish(call, level, place, place.plan.first_row(level, unit) + group * V::kCount,
                       place.plan.rows(level, unit, group), row, sums));
    }
    return total;
  }

  static void backward(const BackwardCall<S>& call) {
    const Levels& levels = call.levels;
    alignas(Place) char storage[sizeof(Place) * kMaxLevels];
    Place* places = reinterpret_cast<Place*>(storage);
    int64_t tasks = 0;
    for (int l = 0; l < levels.count; ++l) {
      const Level& level = levels.level[l];
      new (places + l)
          Place{Plan<S>(level), constants_of(call.settings, level), nullptr, nullptr, tasks};
      tasks += places[l].plan.tasks;
    }
    each_task(call.parallel, places, levels.count, Order::descending, [&](int l, int64_t task) {
      const Level& level = levels.level[l];
      const Plan<S>& plan = places[l].plan;
      const S scale = call.grad_values[l] * call.factors[l];
      const auto piece_of = [&](int64_t unit, int64_t piece) {
        with_sides(levels, level, [&](auto a, auto b) {
          K::gradients(call.settings, places[l].constants, level, plan, unit, piece, a, b,
                       call.saved, levels.rows, scale);
        });
      };
      if (plan.split) {
        piece_of(task / plan.pieces, task % plan.pieces);
        return;
      }
      const int64_t begin = task * plan.units_a_task;
      for (int64_t unit = begin; unit < plan.units && unit < begin + plan.units_a_task; ++unit)
        for (int64_t piece = 0; piece < plan.pieces; ++piece) piece_of(unit, piece);
    });
  }
};

template <class S>
constexpr CpuKernels<S> kKernels = {
    [](const Levels& levels, const Settings& settings) {
      return with_member(settings, [&](auto member) {
        return Driver<decltype(member), S>::workspace_bytes(levels);
      });
    },
    [](const ForwardCall<S>& call) {
      with_member(call.settings, [&](auto member) { Driver<decltype(member), S>::forward(call); });
    },
    [](const BackwardCall<S>& call) {
      with_member(call.settings, [&](auto member) { Driver<decltype(member), S>::backward(call); });
    }};

const CpuKernels<float> kernels_f32 = kKernels<float>;
#ifdef SSSD_ISA_BASELINE  // double serves gradcheck: one build is enough
const CpuKernels<double> kernels_f64 = kKernels<double>;
#endif

}  // namespace sssd::divergence::SSSD_ISA
