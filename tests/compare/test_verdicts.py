"""What a comparison says of results that are made up."""

import json
import math

import numpy as np
import pytest

from sssd.compare.plan import PlannedRun
from sssd.compare.verdicts import by_arm, compared, gains, is_open, summary
from tests.compare.made_up import make_plan, make_results


def truth(run: PlannedRun) -> float:
    """SSSD gains 2 at equal iterations; the baseline gains 1.5 by a quarter more of them."""
    noise = 0.1 * math.sin(7 * run.seed + len(run.arm) + run.iterations)
    return 30 + 5 * run.seed + 2 * (run.arm == "sssd") + 1.5 * (run.iterations > 400) + noise


def test_gains_are_those_of_the_same_seed() -> None:
    plan = make_plan()
    assert plan.at_equal_time == {"sssd": 500}
    results = make_results(plan, truth, 4)
    assert gains(plan, results, "sssd", "iterations") == pytest.approx([2] * 4, abs=0.2)
    assert gains(plan, results, "sssd", "time") == pytest.approx([0.5] * 4, abs=0.2)
    told = compared(plan, results, "sssd", "iterations")
    assert told["verdict"] == "GO"
    assert told["baseline_iterations"] == 400
    assert told["metrics"]["AP50"]["mean"] == pytest.approx(4, abs=0.4)
    assert told["metrics"]["APs"] == {"mean": None, "spread": None}  # no small objects
    assert [row["class"] for row in told["classes"]] == ["cat", "dog"]


def test_a_missing_run_ends_the_seeds_that_count() -> None:
    """Else whoever leaves out the seeds whose runs failed chooses the result."""
    plan = make_plan()
    results = make_results(plan, truth, 5)
    del results[plan.run("sssd", 1)]
    assert len(gains(plan, results, "sssd", "iterations")) == 1
    assert compared(plan, results, "sssd", "time")["verdict"] == "INCONCLUSIVE"
    del results[plan.run("plain", 0, 500)]
    assert len(gains(plan, results, "sssd", "time")) == 0
    assert len(gains(plan, results, "sssd", "iterations")) == 1


def test_a_verdict_is_open_until_it_is_there() -> None:
    plan = make_plan()
    assert is_open(plan, {}, "sssd", "time")
    assert is_open(plan, make_results(plan, truth, 2), "sssd", "time")
    few = make_results(plan, lambda run: truth(run) + (run.iterations > 400) * (-2) ** run.seed, 4)
    assert is_open(plan, few, "sssd", "time")
    assert not is_open(plan, few, "sssd", "iterations")


def test_runs_too_short_to_learn_anything_get_no_verdict_and_no_more_seeds() -> None:
    plan = make_plan()
    results = make_results(plan, lambda run: 0.1 + 0.01 * math.sin(run.seed + len(run.arm)), 3)
    assert compared(plan, results, "sssd", "iterations")["verdict"] == "INCONCLUSIVE"
    assert not is_open(plan, results, "sssd", "iterations")
    one_learned = make_results(plan, lambda run: truth(run) if run.arm == "plain" else 0.0, 3)
    assert compared(plan, one_learned, "sssd", "iterations")["verdict"] == "NO-GO"


def test_an_inconclusive_verdict_says_whether_seeds_are_to_come() -> None:
    plan = make_plan(seeds=4)
    noisy = {n: make_results(plan, lambda r: truth(r) * (-1) ** r.seed % 90, n) for n in (3, 4)}
    told = {n: compared(plan, results, "sssd", "time") for n, results in noisy.items()}
    assert [(told[n]["verdict"], told[n]["open"]) for n in (3, 4)] == [
        ("INCONCLUSIVE", True), ("INCONCLUSIVE", False),
    ]  # fmt: skip


def test_noise_of_seeds_and_of_images_are_told_apart() -> None:
    plan = make_plan()
    results = make_results(plan, truth, 4)
    for run, result in results.items():  # the arm is better on every second draw of images only
        extra = 0.04 if run.arm == "sssd" else 0.0
        result["resampled"] = [0.3 + extra * (i % 2) for i in range(plan.draws)]
    told = compared(plan, results, "sssd", "iterations")
    assert told["image_noise"]["spread"] == pytest.approx(2, rel=0.05)
    assert told["image_noise"]["interval"] == pytest.approx([0, 4])
    assert told["image_noise"]["images_needed"] == pytest.approx(100 * (4 / 0.3) ** 2, rel=0.1)
    assert told["seed_noise"]["spread"] < 0.3
    results[plan.run("sssd", 1)]["resampled"] = []  # as a study may keep it, to be small
    told = compared(plan, results, "sssd", "iterations")
    assert "image_noise" not in told  # of some of the seeds it would be another gain's
    assert told["seed_noise"]["spread"] < 0.3


def test_the_summary_is_json_with_every_run() -> None:
    plan = make_plan(("plain", "sssd", "lgd"))
    results = make_results(plan, truth, 3)
    told = json.loads(
        json.dumps(summary(plan, results, {plan.run("lgd", 3): "why"}), allow_nan=False)
    )
    assert len(told["runs"]) == len(results) == 12  # lgd costs what sssd does: one longer run
    assert [(row["arm"], row["equal"]) for row in told["verdicts"]] == [
        ("sssd", "time"), ("lgd", "time"), ("sssd", "iterations"), ("lgd", "iterations"),
    ]  # fmt: skip
    assert told["failed"] == [{"arm": "lgd", "iterations": 400, "seed": 3, "why": "why"}]
    assert told["machine_hours"] == pytest.approx(12 * 90 / 3600)
    sssd = next(row for row in told["arms"] if row["arm"] == "sssd")
    assert sssd["numbers"]["teacher/AP"]["mean"] > sssd["numbers"]["AP"]["mean"]
    assert sssd["nearer_at_the_end"] == [3, 3]
    assert [row["iteration"] for row in sssd["levels"]] == [200, 400]
    assert sssd["levels"][0]["share"] == pytest.approx([sssd["numbers"]["AP"]["mean"] / 100, 0.9])


def test_runs_of_a_version_that_kept_no_levels_are_left_out_of_their_mean() -> None:
    plan = make_plan(("plain", "sssd"))
    results = make_results(plan, truth, 3)
    del results[plan.run("sssd", plan.seeds[0])]["levels"]
    kept = np.mean([results[plan.run("sssd", s)]["levels"][0]["share"] for s in plan.seeds[1:3]], 0)
    (sssd,) = (row for row in by_arm(plan, results) if row["arm"] == "sssd")
    assert sssd["levels"][0]["share"] == pytest.approx(kept)
