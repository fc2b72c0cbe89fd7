"""A plan is written once; another one, and its results, are refused by name."""

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

from sssd.compare import plan as plans
from sssd.compare.plan import Plan
from tests.compare.made_up import make_plan, make_results


def begun(folder: Path, plan: Plan) -> None:
    """A plan with the results of one seed."""
    plans.write(plan, folder)
    for run, result in make_results(plan, lambda run: 30.0, 1).items():
        path = folder / "runs" / run.folder
        path.mkdir(parents=True)
        (path / "result.json").write_text(json.dumps(result))


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    plan = make_plan()
    begun(tmp_path, plan)
    read = plans.read(tmp_path)
    assert read == plan
    assert read is not None
    assert read.digest == plan.digest
    plans.refuse_changes(plan, plan, tmp_path)
    plans.refuse_foreign(plan, tmp_path)


def test_every_change_is_named(tmp_path: Path) -> None:
    plan = make_plan()
    data = {**plan.data, "val": {**plan.data["val"], "fingerprint": "other"}}
    settings = {**plan.settings, "sssd": {"--method.name": "sssd", "--method.over": "cells"}}
    changes = {
        "--threshold was 0.3 and is now 0.5": {"rule": plans.new_rule(0.5, plan.seeds, 0.05, 1)},
        "--seeds was [0, 1": {"seeds": [1, 2, 3]},
        "--error was 0.05 and is now 0.1": {"error": 0.1},
        "the validation data (fingerprint) was b and is now other": {"data": data},
        "sssd: --method.over was - and is now cells": {"settings": settings},
        "--arms were plain sssd and are now plain lgd": {"arms": {"plain": [], "lgd": []}},
        "--equal was iterations time and is now iterations": {"equal": ["iterations"]},
        "the recipe was small and is now demo": {"recipe": "demo"},
        "torch was None and is now 9": {"versions": {**plan.versions, "torch": "9"}},
    }
    for told, change in changes.items():
        with pytest.raises(
            ValueError, match="A plan cannot be changed after its first run"
        ) as error:
            plans.refuse_changes(plan, dataclasses.replace(plan, **change), tmp_path)
        assert told in str(error.value)
    # What was measured and chosen with the plan is no change.
    measured = dataclasses.replace(plan, seconds={}, at_equal_time={}, image_seconds={})
    plans.refuse_changes(plan, measured, tmp_path)


def test_results_of_another_plan_are_named(tmp_path: Path) -> None:
    plan = make_plan()
    begun(tmp_path, plan)
    changed = dataclasses.replace(plan, iterations=399)  # by hand, in the file
    with pytest.raises(ValueError, match=r"00-plain-seed0.* is not a run of|another plan"):
        plans.refuse_foreign(changed, tmp_path)
    other = dataclasses.replace(plan, error=0.1)
    with pytest.raises(ValueError, match=r"seed0/result\.json belongs to another plan"):
        plans.refuse_foreign(other, tmp_path)
    (tmp_path / "runs" / "somebody").mkdir()
    with pytest.raises(ValueError, match=r"runs/somebody is not a run of .*plan\.json"):
        plans.refuse_foreign(plan, tmp_path)
    (tmp_path / "config.json").touch()
    with pytest.raises(ValueError, match="is the folder of a training run"):
        plans.refuse_foreign(plan, tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"recipe": "small"}'])
def test_a_damaged_plan_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(ValueError, match=r"plan\.json: this version cannot read"):
        plans.read(tmp_path)


@pytest.mark.parametrize(
    ("seeds", "told"),
    [([0, 1, 2, 1], "--seeds: 1 is given more"), ([0, 1], "at least 3"), ([0, 1, -2], "below 0")],
)
def test_bad_seeds_are_named(seeds: list[int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        plans.new_rule(0.3, seeds, 0.05, 1)


def test_bad_numbers_are_named() -> None:
    with pytest.raises(ValueError, match="--threshold is 0"):
        plans.new_rule(0.0, range(3), 0.05, 1)
    with pytest.raises(ValueError, match=r"--error is 0\.5"):
        plans.new_rule(0.3, range(3), 0.5, 1)


def test_equal_time_favours_the_baseline_where_arms_share_it() -> None:
    seconds = {"plain": 2.0, "a": 3.0, "b": 2.99, "c": 4.0, "same": 2.0, "cheaper": 1.0}
    assert plans.equal_time(seconds, 100) == {
        "a": 150, "b": 150, "c": 200, "same": 100, "cheaper": 50,
    }  # fmt: skip
    assert plans.equal_time({"plain": 2.0, "dearer": 2.02}, 100) == {"dearer": 101}
    assert plans.equal_time({"plain": 2.0, "hardly cheaper": 1.97}, 100) == {"hardly cheaper": 100}


def test_a_small_validation_set_is_named() -> None:
    told = plans.image_warning(87, 0.3)
    assert told is not None
    assert "87 validation images are few" in told
    assert "4,400 images would be needed" in told
    assert plans.image_warning(5000, 0.3) is None
    assert plans.image_warning(87, 0.3, spread=0.1) is None  # as measured
    told = plans.image_warning(300, 0.3, spread=0.22)
    assert told is not None
    assert "about ±0.4 (95 %)" in told
    assert "600 images would be needed" in told


def test_a_plan_that_another_version_wrote_keeps_its_digest(tmp_path: Path) -> None:
    """Else its own results would be refused as another plan's."""
    plans.write(make_plan(), tmp_path)
    path = tmp_path / plans.FILE
    values = json.loads(path.read_text())
    del values["equal"]  # as before --equal
    path.write_text(json.dumps(values, indent=1))
    plan = plans.read(tmp_path)
    assert plan is not None
    assert plan.digest == hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    before = path.read_bytes()
    plans.write(plan, tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ["", "{}", "[]"])
def test_a_damaged_result_is_named(text: str, tmp_path: Path) -> None:
    plan = make_plan()
    folder = tmp_path / "runs" / plan.run("plain", 0).folder
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(text)
    with pytest.raises(ValueError, match=r"plain-seed0/result\.json is damaged .*: remove"):
        plans.refuse_foreign(plan, tmp_path)


def test_without_equal_time_the_baseline_has_one_run() -> None:
    plan = dataclasses.replace(make_plan(("plain", "sssd", "lgd")), equal=["iterations"])
    assert plan.comparisons == [("sssd", "iterations"), ("lgd", "iterations")]
    assert [run.folder for run in plan.runs(0)] == [
        "00-plain-seed0", "01-sssd-seed0", "02-lgd-seed0",
    ]  # fmt: skip


def test_runs_are_shared_and_have_their_own_folders() -> None:
    plan = make_plan(("plain", "sssd", "a b", "a-b"))
    runs = plan.runs(0)
    assert len({run.folder for run in runs}) == len(runs) == 5
    assert [run.arm for run in runs].count("plain") == 2
