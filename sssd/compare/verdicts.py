"""From the results of runs to what they say: gains of pairs, verdicts, and the noise in them."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from sssd.compare.plan import IMAGE_NOISE, Equal, Plan, PlannedRun
from sssd.compare.statistics import Verdict, detectable, judge, seeds_needed, simulate

Results = Mapping[PlannedRun, dict[str, Any]]
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
LEARNT = 1.0  # points of AP; below, there is nothing to compare


def pairs(plan: Plan, results: Results, arm: str, equal: Equal) -> list[tuple[dict, dict]]:
    """The results of an arm and of the baseline, of the first seeds that have both.

    Up to the first seed that lacks one: to leave a seed out because its run failed would choose.
    """
    found = []
    for seed in plan.seeds:
        own, base = plan.pair(arm, seed, equal)
        if own not in results or base not in results:
            break
        found.append((results[own], results[base]))
    return found


def gains(plan: Plan, results: Results, arm: str, equal: Equal, metric: str = "AP") -> list[float]:
    """Paired gains over the baseline in points, seed by seed; NaN where COCO has no number."""
    found = pairs(plan, results, arm, equal)
    return [_points(o["numbers"], metric) - _points(b["numbers"], metric) for o, b in found]


def verdict_on(plan: Plan, results: Results, arm: str, equal: Equal) -> Verdict:
    """The verdict on an arm; INCONCLUSIVE where neither it nor the baseline has learned much."""
    verdict = judge(gains(plan, results, arm, equal), plan.rule)
    learned = _has_learned(plan, results, arm, equal)
    return verdict if learned else verdict._replace(name="INCONCLUSIVE")


def is_open(plan: Plan, results: Results, arm: str, equal: Equal) -> bool:
    """Whether a verdict needs more seeds; they do not help runs too short to learn anything."""
    seeds = len(pairs(plan, results, arm, equal))
    if seeds < plan.rule.looks[0]:
        return True
    return (
        seeds < len(plan.seeds)
        and _has_learned(plan, results, arm, equal)
        and verdict_on(plan, results, arm, equal).name == "INCONCLUSIVE"
    )


def _has_learned(plan: Plan, results: Results, arm: str, equal: Equal) -> bool:
    """Whether an arm or its baseline has a mean AP of `LEARNT` or more."""
    found = pairs(plan, results, arm, equal)
    return any(np.mean([_points(run["numbers"], "AP") for run in one]) >= LEARNT
               for one in zip(*found, strict=True))  # fmt: skip


def compared(plan: Plan, results: Results, arm: str, equal: Equal) -> dict[str, Any]:
    """All that is known of an arm over the baseline, for the report and `results.json`."""
    own = gains(plan, results, arm, equal)
    verdict = verdict_on(plan, results, arm, equal)
    used = pairs(plan, results, arm, equal)[: verdict.seeds]
    summary: dict[str, Any] = {
        "arm": arm,
        "over": plan.baseline,
        "equal": equal,
        "baseline_iterations": plan.pair(arm, plan.seeds[0], equal)[1].iterations,
        "verdict": verdict.name,
        "open": is_open(plan, results, arm, equal),
        "seeds": verdict.seeds,
        "gain": _number(verdict.mean),
        "interval": [_number(verdict.low), _number(verdict.high)],
        "gains": own[: verdict.seeds],
        "metrics": {
            metric: _spread(gains(plan, results, arm, equal, metric)[: verdict.seeds])
            for metric in METRICS
        },
        "classes": _classes(used),
    }
    if used and all(run["resampled"] for pair in used for run in pair):  # some are kept without
        summary["image_noise"] = _image_noise(plan, used)
    if len(used) >= plan.rule.looks[0]:
        summary["seed_noise"] = _seed_noise(plan, own[: verdict.seeds])
    return summary


def _image_noise(plan: Plan, used: list[tuple[dict, dict]]) -> dict[str, Any]:
    """What the gain would be on other validation images, the runs being what they are."""
    draws = np.mean([np.subtract(o["resampled"], b["resampled"]) for o, b in used], axis=0) * 100
    spread = float(draws.std(ddof=1))
    images = plan.data["val"]["images"]
    return {
        "spread": spread,
        "interval": [float(end) for end in np.quantile(draws, (0.025, 0.975))],
        "images": images,
        "images_needed": math.ceil(images * (2 * spread / plan.rule.threshold) ** 2),
    }


def _seed_noise(plan: Plan, own: list[float]) -> dict[str, Any]:
    """The spread of the gains over seeds, and what the plan can tell with it."""
    spread = float(np.std(own, ddof=1))
    threshold = plan.rule.threshold
    return {
        "spread": spread,
        "detectable": detectable(plan.rule, spread),
        "power_at_twice_the_threshold": simulate(plan.rule, 2 * threshold, spread).go,
        "seeds_needed": seeds_needed(threshold, spread, plan.rule.levels[-1]),
    }


def _classes(used: list[tuple[dict, dict]]) -> list[dict[str, Any]]:
    """Mean AP of each class and its mean gain, the largest gain first."""
    rows: dict[str, list[tuple[float, float]]] = {}
    for own, base in used:
        for place, ((name, a), (_, b)) in enumerate(
            zip(own["classes"], base["classes"], strict=True)
        ):
            if a is not None and b is not None:
                rows.setdefault(f"{place}:{name}", []).append((100 * a, 100 * b))
    table = []
    for key, values in rows.items():
        own_ap, base_ap = (float(np.mean(column)) for column in zip(*values, strict=True))
        differences = [a - b for a, b in values]
        row = {"class": key.partition(":")[2], "AP": own_ap, "baseline": base_ap}
        table.append(row | _spread(differences))
    return sorted(table, key=lambda row: -row["mean"])


def by_length(plan: Plan, results: Results) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """The results of each arm and length, in the order of the arms."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for run in plan.all_runs():
        if run in results:
            groups.setdefault((run.arm, run.iterations), []).append(results[run])
    arms = list(plan.arms)
    return dict(sorted(groups.items(), key=lambda group: (arms.index(group[0][0]), group[0][1])))


def by_arm(plan: Plan, results: Results) -> list[dict[str, Any]]:
    """Each arm and length: its numbers over seeds, its teacher's, and what it cost."""
    table = []
    for (arm, iterations), found in by_length(plan, results).items():
        numbers = {
            metric: _spread([_points(one["numbers"], metric) for one in found])
            for metric in (*METRICS, "teacher/AP")
            if metric in found[0]["numbers"]
        }
        distances = [one["distance"] for one in found if one["distance"]]
        table.append(
            {
                "arm": arm,
                "iterations": iterations,
                "seeds": len(found),
                "numbers": numbers,
                "distance": [float(v) for v in np.mean(distances, axis=0)] if distances else None,
                "levels": _levels(found),
                "nearer_at_the_end": [sum(b < a for a, b in distances), len(distances)],
                "seconds_a_step": plan.seconds[arm],
                "hours": sum(one["wall_seconds"] for one in found) / 3600,
            }
        )
    return table


def _levels(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The mean over seeds of what the runs say of their levels; none for runs of older versions."""
    each = [one["levels"] for one in found if one.get("levels")]
    means = []
    for rows in zip(*each, strict=True):
        at, weight = rows[0]["iteration"], rows[0]["lambda"]
        values = {
            what: np.mean([row[what] for row in rows], axis=0).tolist()
            for what in ("distance", "share")
        }
        means.append({"iteration": at, "lambda": weight} | values)
    return means


def summary(plan: Plan, results: Results, failed: Mapping[PlannedRun, str]) -> dict[str, Any]:
    """What `results.json` holds."""
    runs = [
        {k: v for k, v in results[run].items() if k not in ("resampled", "plan")}
        for run in plan.all_runs()
        if run in results
    ]
    ordered = sorted(plan.comparisons, key=lambda one: one[1] != plan.counts)  # what counts, first
    return {
        "plan": plan.digest,
        "verdicts": [compared(plan, results, arm, equal) for arm, equal in ordered],
        "arms": by_arm(plan, results),
        "failed": [
            {"arm": r.arm, "iterations": r.iterations, "seed": r.seed, "why": why}
            for r, why in failed.items()
        ],
        "machine_hours": sum(one["wall_seconds"] for one in results.values()) / 3600,
        "image_noise_expected": IMAGE_NOISE / plan.data["val"]["images"] ** 0.5,
        "runs": runs,
    }


def _points(numbers: Mapping[str, float], metric: str) -> float:
    value = numbers.get(metric, -1.0)
    return math.nan if value < 0 else 100 * value


def _spread(values: list[float]) -> dict[str, Any]:
    """Mean and sample standard deviation; None for what is not there."""
    if not values or any(math.isnan(value) for value in values):
        return {"mean": None, "spread": None}
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "spread": spread}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
