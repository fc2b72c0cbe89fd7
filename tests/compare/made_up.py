"""Plans whose results are made up, so that the truth is known."""

from collections.abc import Callable

import numpy as np

from sssd.compare.plan import Plan, PlannedRun, equal_time
from sssd.compare.statistics import make_rule

Result = dict
CLASSES = ["cat", "dog", "a class | with <marks>"]


def make_plan(
    arms: tuple[str, ...] = ("plain", "sssd"), seeds: int = 8, threshold: float = 0.3
) -> Plan:
    seconds = {arm: 1.0 if arm == "plain" else 1.25 for arm in arms}
    return Plan(
        recipe="small",
        flags=[],
        arms={arm: ["--method.name", arm.split("-")[0]] for arm in arms},
        settings={arm: {"--method.name": arm.split("-")[0]} for arm in arms},
        iterations=400,
        seconds=seconds,
        at_equal_time=equal_time(seconds, 400),
        image_seconds=dict.fromkeys(arms, 0.1),
        seeds=list(range(seeds)),
        error=0.05,
        rule=make_rule(threshold, seeds, 0.05, len(arms) - 1),
        draws=50,
        data={
            "train": {"fingerprint": "a", "images": 500},
            "val": {"fingerprint": "b", "images": 100, "objects": 300},
            "classes": CLASSES,
        },
        versions={"sssd": "0.1.0"},
    )


def make_result(plan: Plan, run: PlannedRun, ap: float) -> Result:
    """A run's result of an AP in points."""
    share = ap / 100
    numbers = {"AP": share, "AP50": 2 * share, "AP75": share, "APs": -1.0, "APm": share}
    numbers |= {"APl": share}
    taught = {"teacher/AP": share + 0.2} if run.arm != plan.baseline else {}
    random = np.random.default_rng(run.seed)
    levels = [
        {"iteration": i, "lambda": 1.0, "distance": [0.2 + share, 0.1], "share": [share, 0.9]}
        for i in (200, 400)
    ]
    curve = [[i, share * i / run.iterations] for i in range(100, run.iterations + 1, 100)]
    return {
        "plan": plan.digest,
        **vars(run),
        "numbers": numbers | taught,
        "classes": [[name, share + 0.01 * i] for i, name in enumerate(CLASSES[:2])]
        + [[CLASSES[2], None]],
        "curve": curve,
        "teacher_curve": [[i, ap + 0.2] for i, ap in curve] if taught else [],
        "distance": [0.3, 0.2] if taught else None,
        "levels": levels if taught else [],
        "wall_seconds": 90.0,
        "code": "c",
        "resampled": (share + random.normal(0, 0.01, 50)).tolist(),
    }


def make_results(
    plan: Plan, ap: Callable[[PlannedRun], float], seeds: int | None = None
) -> dict[PlannedRun, Result]:
    """Results of the first seeds, by a function of the run."""
    chosen = plan.seeds[: len(plan.seeds) if seeds is None else seeds]
    runs = [run for seed in chosen for run in plan.runs(seed)]
    return {run: make_result(plan, run, ap(run)) for run in runs}
