"""The command from a user's folder to a verdict, and what it refuses before the first run."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from sssd.compare import __main__ as command
from sssd.compare import comparison
from sssd.compare import runs as files
from sssd.compare.arms import make_arms
from sssd.compare.cost import Cost
from sssd.compare.plan import read
from sssd.compare.runner import Runner
from sssd.compare.statistics import make_rule
from sssd.engine.lock import alone_in
from sssd.engine.record import write_record
from tests.runs import SETTINGS
from tests.scenes import write_scenes
from tests.torchrun import ROOT

SMALL = [
    *(*SETTINGS[: SETTINGS.index("--method.name")], "--engine.ema-decay", "None"),
    *("--engine.batch-size", "2", "--engine.log-every", "1"),
    *("--schedule.iterations", "4", "--schedule.warmup", "0"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("data")
    paths = [write_scenes(folder, "train"), write_scenes(folder, "val", count=3)]
    return ["--data.train", str(paths[0]), "--data.val", str(paths[1])]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is measured and nothing is run."""
    monkeypatch.setattr(
        comparison, "_measured", lambda arms: {n: Cost(1.0 + (n != "plain"), 0.1) for n in arms}
    )
    monkeypatch.setattr(Runner, "run_all", lambda self, on_result: None)


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as exit_info:
        command.main(arguments)
    assert exit_info.value.code == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_from_a_folder_to_gains(data: list[str], tmp_path: Path) -> None:
    """One seed of real runs in processes of their own; then Ctrl-C, while the next ones train."""
    out = tmp_path / "out"
    arguments = ["small", *data, *SMALL, "--seeds", "0", "1", "2", "--jobs", "2"]
    command = [sys.executable, "-m", "sssd.compare", *arguments, "--out", str(out)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        while len([*out.glob("runs/*-seed0/result.json")]) < 3:
            assert process.poll() is None
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "the runs save a checkpoint" in said
    assert "sssd over plain at equal time: INCONCLUSIVE so far" in said
    plan = read(out)
    assert plan is not None
    length = plan.at_equal_time["sssd"]
    assert length > 4  # a distilled step costs more
    told = json.loads((out / "results.json").read_text())
    assert {(r["arm"], r["iterations"]) for r in told["runs"] if r["seed"] == 0} == {
        ("plain", 4), ("plain", length), ("sssd", 4),
    }  # fmt: skip
    assert (out / "report.html").stat().st_size > 10_000
    run, plain = out / "runs" / "01-sssd-seed0", out / "runs" / "00-plain-seed0"
    assert not (run / "checkpoints").exists()
    result = json.loads((run / "result.json").read_text())
    own = json.loads((run / "evaluation.json").read_text())
    assert result["numbers"]["AP"] == own["AP"]
    assert result["numbers"]["teacher/AP"] == own["teacher/AP"]
    assert [row[0] for row in result["curve"]] == [1, 2, 3, 4]
    last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-2]
    assert [row["iteration"] for row in result["levels"]] == [1, 2, 3, 4]
    assert result["levels"][-1]["lambda"] == last["lambda"]
    assert result["levels"][-1]["distance"] == [last[f"distance/level{i}"] for i in range(5)]
    assert 0 < result["levels"][-1]["share"][0] < 1
    none = json.loads((plain / "result.json").read_text())
    assert (none["distance"], none["levels"]) == (None, [])
    # The same weights and images in both arms: the first step's loss on K is the same.
    assert first_loss(run) == pytest.approx(first_loss(plain), rel=1e-5)


def first_loss(run: Path) -> float:
    (row, *_) = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    return row["loss/detection/classification"]


@pytest.mark.usefixtures("quick")
def test_the_plan_is_there_before_the_first_run(
    data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path)]
    assert command.main(["small", *data, *SMALL, *out]) == 0
    plan = read(tmp_path)
    assert plan is not None
    assert plan.at_equal_time == {"sssd": 8}
    assert plan.rule == make_rule(0.3, 8, verdicts=2)  # at equal iterations and at equal time
    told = capsys.readouterr().out
    assert "3 validation images are few for a threshold of 0.3 AP" in told
    assert "at equal time plain has 8" in told
    assert command.main(["small", *data, *SMALL, *out, "--equal", "iterations"]) == 0
    assert "at equal time" not in capsys.readouterr().out
    assert command.main(["small", *data, *SMALL, *out, "--threshold", "1"]) == 0  # none has begun
    run = tmp_path / "runs" / "00-plain-seed0"
    run.mkdir(parents=True)
    (run / "log.txt").touch()
    assert command.main(["small", *data, *SMALL, *out, "--threshold", "1"]) == 0
    assert "--threshold was 1.0 and is now 0.5" in fails(
        capsys, "small", *data, *SMALL, *out, "--threshold", "0.5"
    )
    assert "plain: --data.flip was 0.5 and is now 0.25" in fails(
        capsys, "small", *data, *SMALL, *out, "--threshold", "1", "--data.flip", "0.25"
    )
    (tmp_path / "plan.json").unlink()
    assert "has runs but no plan.json" in fails(capsys, "small", *data, *SMALL, *out)


@pytest.mark.usefixtures("quick")
def test_two_commands_do_not_share_a_folder(
    data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path)]
    with alone_in(tmp_path, "sssd.compare"):
        told = fails(capsys, "small", *data, *SMALL, *out)
    assert f"another sssd.compare is at work in {tmp_path}" in told
    assert command.main(["small", *data, *SMALL, *out]) == 0


@pytest.mark.usefixtures("quick")
def test_a_budget_shortens_a_new_plan_and_never_an_old_one(
    data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["small", *data, *SMALL[:-4], "--schedule.iterations", "400", "--out", str(tmp_path)]
    words += ["--jobs", "1"]
    assert command.main([*words, "--hours", "1"]) == 0
    plan = read(tmp_path)
    assert plan is not None
    assert plan.iterations < 400
    assert plan.at_equal_time["sssd"] == 2 * plan.iterations
    assert f"every run is shortened to {plan.iterations}" in " ".join(
        capsys.readouterr().out.split()
    )
    run = tmp_path / "runs" / "00-plain-seed0"
    run.mkdir(parents=True)
    (run / "log.txt").touch()
    assert command.main(words) == 0
    assert read(tmp_path) == plan
    assert "give" in fails(capsys, *words[:-3], str(tmp_path / "new"), "--minutes", "1")


@pytest.mark.usefixtures("quick")
def test_wrong_use_is_told(
    data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["small", *data, *SMALL, "--out", str(tmp_path / "out")]
    cases = {
        "the recipe's name comes first": ["paper"],
        "--jobs is 99": [*small, "--jobs", "99"],
        "--minutes is 0": [*small, "--minutes", "0"],
        "is given more than once": [*small, "--seeds", "1", "2", "1"],
        "--data.train is required": ["small", "--out", str(tmp_path / "out")],
        "the flags that all arms share: ": [*small, "--data.flop", "1"],
        "known are plain": [*small, "--arms", "plain", "ssd"],
    }
    for told, arguments in cases.items():
        assert told in fails(capsys, *arguments)
    assert not (tmp_path / "out").exists()


def test_jobs_have_a_core_or_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    assert comparison._gpus("cpu") is None
    monkeypatch.setattr(comparison.os, "sched_getaffinity", lambda pid: {0, 1, 5})
    assert comparison._jobs(None, None) == 3
    monkeypatch.setattr(comparison.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(comparison.torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert comparison._gpus("auto") == ["0", "1"]
    assert comparison._jobs(None, ["0", "1"]) == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1,7")
    assert comparison._gpus("auto") == ["GPU-1", "7"]
    with pytest.raises(ValueError, match="--jobs is 3, but there are only 2 GPUs"):
        comparison._jobs(3, ["0", "1"])
    with pytest.raises(ValueError, match="set CUDA_VISIBLE_DEVICES instead"):
        comparison._gpus("cuda:1")


def test_a_run_of_other_settings_is_named(tmp_path: Path) -> None:
    """What a run notes of itself is compared with the plan."""
    arm = make_arms("small", [], ["plain", "sssd"])[1]
    run = SimpleNamespace(seed=1)
    plan = SimpleNamespace(versions={"sssd": "0.1"})

    def check(**engine: object) -> None:
        own = dataclasses.replace(arm.config.engine, **{"seed": 1, "workers": 0, **engine})
        config = dataclasses.replace(arm.config, engine=own)
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        write_record(tmp_path / "run", "small", config, 0)
        files.require_settings(plan, run, arm, tmp_path / "run")  # type: ignore[arg-type]

    check()
    check(evaluate_every=7, checkpoint_every=3)
    with pytest.raises(ValueError, match=r"--engine\.seed is 2 but the plan has 1"):
        check(seed=2)
    with pytest.raises(ValueError, match=r"--engine\.batch-size is 8 but the plan has 4"):
        check(batch_size=8)
    plan.versions["torch"] = "1.0"
    with pytest.raises(ValueError, match=r"torch is .* but the plan has 1\.0"):
        check()
