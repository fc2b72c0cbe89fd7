"""The pictures of a comparison, as SVG text."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sssd.compare.plan import Plan
from sssd.compare.verdicts import METRICS, Results, by_length
from sssd.report.charts import COLOURS, svg

VERDICTS = {"GO": "#1a7f37", "NO-GO": "#b42318", "INCONCLUSIVE": "#8a6d00"}
Curve = Sequence[tuple[float, float]]  # AP at an iteration
VALUE, FACTOR = "--method.coefficient.value", "--method.coefficient.step-factor"


def gains(verdicts: Sequence[Mapping[str, Any]], threshold: float, baseline: str) -> str | None:
    """Each comparison's gains by seed, their mean and interval, beside 0 and the threshold."""
    rows = [row for row in verdicts if row["gains"]]
    if not rows:
        return None
    figure = Figure(figsize=(8.5, 1.3 + 0.42 * len(rows)), layout="constrained")
    axes = figure.subplots()
    ends = [g for row in rows for g in row["gains"]] + [0.0, threshold]
    reach = 1.6 * max(max(ends) - min(ends), threshold)
    middle = (max(ends) + min(ends)) / 2
    low, high = middle - reach, middle + reach
    for place, row in enumerate(rows):
        colour = VERDICTS[row["verdict"]]
        if row["interval"][0] is not None:
            begin, end = row["interval"]
            axes.plot([max(begin, low), min(end, high)], [place] * 2, color=colour, lw=2.2)
            for mark, edge, out in (("<", low, begin < low), (">", high, end > high)):
                if out:  # an arrow: it goes on outside
                    axes.plot(edge, place, mark, color=colour, ms=7, clip_on=False)
        axes.plot(row["gains"], [place] * len(row["gains"]), "o", color="#999999", ms=4.5, zorder=3)
        axes.plot(row["gain"], place, "D", color=colour, ms=7, zorder=4)
    axes.axvline(0, color="black", lw=0.9)
    axes.axvline(threshold, color="black", lw=0.9, ls=":")
    names = [f"{row['arm']}, equal {row['equal']}" for row in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(low, high)
    axes.set_xlabel(f"gain over {baseline}, AP\n(grey: seeds; dotted: threshold)")
    return svg(figure, axes)


def curves(plan: Plan, results: Results) -> str | None:
    """AP on the way, by iterations and by the time that training takes."""
    drawn = {run: result for run, result in results.items() if result["curve"]}
    if not drawn:
        return None
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for (arm, length), found in by_length(plan, drawn).items():
        each = [result["curve"] for result in found]
        longer = length != plan.iterations
        label = f"{arm}, {length} iterations" if longer else arm
        style = {"color": _colour(plan, arm), "ls": "--" if longer else "-"}
        for panel, unit in zip(panels, (1.0, plan.seconds[arm] / 60), strict=True):
            for curve in each:
                panel.plot(*_points(curve, unit), lw=0.7, alpha=0.35, **style)
            panel.plot(*_mean(each, unit), lw=2.2, marker="o", ms=4, label=label, **style)
    panels[0].set_xlabel("iterations")
    panels[1].set_xlabel("minutes of training steps, from the step times measured beforehand")
    panels[0].set_ylabel("AP on the validation images")
    panels[0].set_ylim(bottom=0)
    panels[1].legend(fontsize=8)
    return svg(figure, *panels)


def teachers(plan: Plan, results: Results) -> str | None:
    """AP on the way of the detector and of its teacher, which is given the labels."""
    found = {
        arm: [r for run, r in results.items() if run == plan.run(arm, run.seed)]
        for arm in plan.arms
    }
    taught = {arm: own for arm, own in found.items() if own and own[0]["teacher_curve"]}
    if not taught:
        return None
    figure = Figure(figsize=(6.8, 4.2), layout="constrained")
    axes = figure.subplots()
    for arm, own in taught.items():
        for key, label, line in (("teacher_curve", f"{arm}, teacher", "o:"), ("curve", arm, "o-")):
            curve = _mean([result[key] for result in own], 1.0)
            axes.plot(*curve, line, lw=2, ms=4, label=label, color=_colour(plan, arm))
    axes.set_xlabel("iterations (mean over seeds)")
    axes.set_ylabel("AP on the validation images")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    return svg(figure, axes)


def by_metric(plan: Plan, verdicts: Sequence[Mapping[str, Any]]) -> str | None:
    """The gain in each number, by size of object among them; a panel each for what is equal."""
    rows = [row for row in verdicts if row["seeds"] > 1]
    if not rows:
        return None
    figure = Figure(figsize=(5.5 * len(plan.equal), 3.6), layout="constrained")
    panels = figure.subplots(1, len(plan.equal), sharey=True, squeeze=False)[0]
    for panel, equal in zip(panels, plan.equal, strict=True):
        own = [row for row in rows if row["equal"] == equal]
        for place, row in enumerate(own):
            shift = (place - (len(own) - 1) / 2) * 0.7 / max(len(own), 1)
            for spot, metric in enumerate(METRICS):
                mean, spread = (row["metrics"][metric][key] for key in ("mean", "spread"))
                if mean is not None:
                    panel.errorbar(
                        spot + shift, mean, spread, fmt="o", ms=5, capsize=2, lw=1.2,
                        color=_colour(plan, row["arm"]),
                        label=row["arm"] if metric == "AP" else None,
                    )  # fmt: skip
        panel.axhline(0, color="black", lw=0.9)
        panel.set_xticks(range(len(METRICS)), METRICS)
        panel.set_title(f"at equal {equal}", fontsize=10)
    panels[0].set_ylabel(f"gain over {plan.baseline}\n(mean, spread of seeds)")
    panels[0].legend(fontsize=8)
    return svg(figure, *panels)


def over_lambda(plan: Plan, results: Results) -> str | None:
    """AP over lambda for arms that differ in it alone (Figure 2 of the paper)."""
    groups: dict[tuple[tuple[str, str], ...], dict[float, list[float]]] = {}
    for arm, settings in plan.settings.items():
        key = tuple((f, v) for f, v in settings.items() if f != VALUE)
        scores = _scores(plan, results, arm)
        if VALUE in settings and settings.get("--method.name") != "plain" and scores:
            groups.setdefault(key, {})[float(settings[VALUE])] = scores
    groups = {key: values for key, values in groups.items() if len(values) > 2}
    if not groups:
        return None
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for place, (key, values) in enumerate(groups.items()):
        points = sorted(values.items())
        axes.errorbar(
            [value for value, _ in points],
            [np.mean(scores) for _, scores in points],
            [_error(scores) for _, scores in points],
            fmt="o-", lw=2, capsize=3, color=COLOURS[1 + place % 6],
            label=dict(key)["--method.name"].upper(),
        )  # fmt: skip
    if baseline := _scores(plan, results, plan.baseline):
        axes.axhline(float(np.mean(baseline)), color=COLOURS[0], ls="--", label=plan.baseline)
    axes.set_xscale("log")
    ticks = sorted({value for values in groups.values() for value in values})
    axes.set_xticks(ticks, [f"{value:g}" for value in ticks])
    axes.minorticks_off()
    axes.set_xlabel("lambda")
    axes.set_ylabel("AP (mean over seeds, standard error)")
    axes.legend()
    return svg(figure, axes)


def stepwise(plan: Plan, results: Results) -> str | None:
    """AP on the way for arms that differ in lambda's steps alone (Figure 3 of the paper)."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for arm, settings in plan.settings.items():
        if settings.get("--method.name") != "plain":
            key = tuple((f, v) for f, v in settings.items() if f != FACTOR)
            groups.setdefault(key, []).append(arm)
    groups = {key: arms for key, arms in groups.items() if len(arms) > 1}
    if not groups or not results:
        return None
    figure = Figure(figsize=(6.8, 4.4), layout="constrained")
    axes = figure.subplots()
    for place, arms in enumerate(groups.values()):
        for arm in arms:
            found = [r["curve"] for run, r in results.items() if run == plan.run(arm, run.seed)]
            if any(found):
                fixed = float(plan.settings[arm][FACTOR]) == 1
                axes.plot(*_mean(found, 1.0), "o:" if fixed else "o-", lw=2, ms=4, label=arm,
                          color=COLOURS[1 + place % 6])  # fmt: skip
    axes.set_xlabel("iterations (dotted: lambda fixed)")
    axes.set_ylabel("AP (mean over seeds)")
    if not axes.lines:
        return None
    axes.legend()
    return svg(figure, axes)


def _scores(plan: Plan, results: Results, arm: str) -> list[float]:
    runs = (plan.run(arm, seed) for seed in plan.seeds)
    return [100 * results[run]["numbers"]["AP"] for run in runs if run in results]


def _error(scores: Sequence[float]) -> float:
    return float(np.std(scores, ddof=1) / len(scores) ** 0.5) if len(scores) > 1 else 0.0


def _colour(plan: Plan, arm: str) -> str:
    return COLOURS[list(plan.arms).index(arm) % len(COLOURS)]


def _points(curve: Curve, unit: float) -> tuple[list[float], list[float]]:
    return [x * unit for x, _ in curve], [100 * y for _, y in curve]


def _mean(found: Sequence[Curve], unit: float) -> tuple[Any, Any]:
    """The mean of curves at the places that all of them have."""
    tables = [dict(curve) for curve in found]
    shared = sorted(set.intersection(*map(set, tables)))
    means = [100 * float(np.mean([table[x] for table in tables])) for x in shared]
    return [x * unit for x in shared], means
