"""Runs are made once, in order, as many as the verdict needs; what fails counts for nothing."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from sssd.compare import runner as module
from sssd.compare import runs as files
from sssd.compare.plan import Plan, PlannedRun
from sssd.compare.runner import Runner
from tests.compare.made_up import make_plan, make_result

Commands = Callable[[PlannedRun], str]


@pytest.fixture
def make_runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Runner]:
    """Runners whose runs are a line of Python each, with results that are made up."""
    monkeypatch.setattr(module, "POLL", 0.01)
    monkeypatch.setattr(Plan, "arm_of", lambda self, run, arms: SimpleNamespace())

    def make(
        ap: Callable[[PlannedRun], float],
        command: Commands = lambda run: "pass",
        plan: Plan | None = None,
        jobs: int = 1,
        seconds: float | None = None,
    ) -> Runner:
        plan = plan or make_plan()

        def training(plan: Plan, run: PlannedRun, arm: Any, path: Path) -> list[str]:
            with (tmp_path / "begun.txt").open("a") as file:
                file.write(f"{run.folder}\n")
            return [sys.executable, "-S", "-c", f"import os, time; {command(run)}"]

        def evaluation(path: Path) -> list[str]:
            file = str(path / files.DETECTIONS)
            return [sys.executable, "-S", "-c", f"open({file!r}, 'w').close()"]

        def collect(plan: Plan, run: PlannedRun, arm: Any, path: Path, data: Any) -> dict:
            result = make_result(plan, run, ap(run))
            (path / files.RESULT).write_text(json.dumps(result))
            return result

        for name, fake in (("training", training), ("evaluation", evaluation)):
            monkeypatch.setattr(files, name, fake)
        monkeypatch.setattr(files, "collect", collect)
        console = Console(width=300)
        return Runner(plan, {}, tmp_path, SimpleNamespace(), None, jobs, seconds, console)  # type: ignore[arg-type]

    return make


def clear(run: PlannedRun) -> float:
    """SSSD is better by 3, in every seed by a little more or less."""
    return 30 + 3 * (run.arm == "sssd") + 0.1 * (run.seed % 3) * (run.arm == "sssd")


def unclear(run: PlannedRun) -> float:
    return 30 + (run.arm == "sssd") * (-1) ** run.seed


def begun(folder: Path) -> list[str]:
    return (folder / "begun.txt").read_text().split()


def test_three_seeds_where_they_decide(make_runner: Callable[..., Runner], tmp_path: Path) -> None:
    runner = make_runner(clear)
    reported = []
    runner.run_all(lambda: reported.append(len(runner.results)))
    names = ["00-plain-seed{}", "01-sssd-seed{}", "00-plain-500-seed{}"]
    assert begun(tmp_path) == [name.format(seed) for seed in range(3) for name in names]
    assert reported == list(range(1, 10))
    again = make_runner(clear)
    again.run_all(lambda: None)
    assert len(begun(tmp_path)) == 9  # nothing is run twice
    assert again.results.keys() == runner.results.keys()


def test_one_seed_more_while_a_verdict_is_open(
    make_runner: Callable[..., Runner], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_runner(unclear, plan=make_plan(seeds=5)).run_all(lambda: None)
    assert len(begun(tmp_path)) == 15
    assert "5 seeds: +0.20" in capsys.readouterr().out


def test_a_decided_arm_gets_no_more_seeds(
    make_runner: Callable[..., Runner], tmp_path: Path
) -> None:
    plan = make_plan(("plain", "sssd", "lgd"), seeds=4)
    make_runner(lambda run: clear(run) + (run.arm == "lgd") * (-1) ** run.seed, plan=plan).run_all(
        lambda: None
    )
    fourth = [name for name in begun(tmp_path) if name.endswith("seed3")]
    assert fourth == ["00-plain-seed3", "02-lgd-seed3", "00-plain-500-seed3"]


def test_a_decided_verdict_gets_no_more_runs(
    make_runner: Callable[..., Runner], tmp_path: Path
) -> None:
    """Equal time is decided after three seeds, equal iterations is not: no more longer runs."""
    make_runner(
        lambda run: unclear(run) + 9 * (run.iterations > 400), plan=make_plan(seeds=4)
    ).run_all(lambda: None)
    fourth = [name for name in begun(tmp_path) if name.endswith("seed3")]
    assert fourth == ["00-plain-seed3", "01-sssd-seed3"]


def test_jobs_run_at_once_with_one_thread_each(
    make_runner: Callable[..., Runner], tmp_path: Path
) -> None:
    waits = (
        f"open(os.path.join({str(tmp_path)!r}, str(os.getpid())), 'w').close(); "
        f"assert os.environ['OMP_NUM_THREADS'] == '1'; n = 0\n"
        f"while n < 500 and sum(f.isdecimal() for f in os.listdir({str(tmp_path)!r})) < 2: "
        "time.sleep(0.02); n += 1\n"
        "assert n < 500"
    )
    runner = make_runner(clear, command=lambda run: waits, plan=make_plan(seeds=3), jobs=2)
    runner.run_all(lambda: None)
    assert len(runner.results) == 9


def test_each_job_has_a_gpu_of_its_own(make_runner: Callable[..., Runner], tmp_path: Path) -> None:
    note = f"open({str(tmp_path / 'gpus')!r}, 'a').write(os.environ['CUDA_VISIBLE_DEVICES'] + ' ')"
    runner = make_runner(clear, lambda run: note, plan=make_plan(seeds=3), jobs=2)
    runner.gpus = ["3", "GPU-5"]
    runner.run_all(lambda: None)
    assert set((tmp_path / "gpus").read_text().split()) == {"3", "GPU-5"}
    assert runner.failed == {}


def test_a_failed_run_is_named_and_its_seed_counts_for_nothing(
    make_runner: Callable[..., Runner], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(run: PlannedRun) -> str:
        fails = run.arm == "sssd" and run.seed == 1
        return "import sys; sys.exit('error: training diverged at 7')" if fails else "pass"

    runner = make_runner(clear, command=command)
    runner.run_all(lambda: None)
    failed = runner.plan.run("sssd", 1)
    assert runner.failed == {failed: "status 1: error: training diverged at 7"}
    assert failed not in runner.results
    told = " ".join(capsys.readouterr().out.split())
    assert "sssd, seed 1 failed and is not counted: status 1: error: training diverged" in told
    assert not any(name.endswith("seed3") for name in begun(tmp_path))
    assert "GO" not in told.replace("NO-GO", "")
    again = make_runner(clear)  # tried again by the same command
    again.run_all(lambda: None)
    assert begun(tmp_path)[-1] == "01-sssd-seed1"
    assert not again.failed
    assert len(again.results) == 9


def test_a_run_that_is_not_the_plans_is_refused(
    make_runner: Callable[..., Runner], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def foreign(plan: Plan, run: PlannedRun, arm: Any, path: Path) -> None:
        raise ValueError(f"{run.folder} is not a run of this plan: --data.flip is 0")

    monkeypatch.setattr(files, "require_settings", foreign)
    path = tmp_path / "runs" / "00-plain-seed0" / "checkpoints"
    path.mkdir(parents=True)
    (path / "00000001.pt").touch()
    (path.parent / "config.json").touch()
    runner = make_runner(clear)
    runner.run_all(lambda: None)
    assert "00-plain-seed0" not in begun(tmp_path)
    (why,) = runner.failed.values()
    assert "--data.flip is 0" in why


def test_no_run_begins_that_would_not_end_in_time(
    make_runner: Callable[..., Runner], tmp_path: Path
) -> None:
    runner = make_runner(clear, seconds=60)  # a run is planned to take minutes
    runner.run_all(lambda: None)
    assert runner.out_of_time
    assert not (tmp_path / "begun.txt").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_runs_and_the_same_command_goes_on(
    number: int, make_runner: Callable[..., Runner], tmp_path: Path
) -> None:
    saves = (
        "import signal, sys; "
        f"signal.signal(signal.SIGTERM, lambda *_: [open({str(tmp_path / 'saved')!r}, 'w').close(),"
        f" sys.exit(143)]); open({str(tmp_path / 'ready')!r}, 'w').close(); time.sleep(60)"
    )
    runner = make_runner(clear, command=lambda run: saves)

    def stop() -> None:
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=stop).start()
    runner.run_all(lambda: None)
    assert (tmp_path / "saved").exists()
    assert not runner.results
    assert not runner.failed
    make_runner(clear).run_all(lambda: None)
    assert begun(tmp_path)[:2] == ["00-plain-seed0"] * 2


def test_time_that_is_left_is_told_from_what_runs_took(
    make_runner: Callable[..., Runner], capsys: pytest.CaptureFixture[str]
) -> None:
    runner = make_runner(clear)
    run = runner.plan.run("plain", 0)
    planned = module.planned_seconds(runner.plan, run)
    assert runner.expected(run) == pytest.approx(planned)
    runner.run_all(lambda: None)
    assert runner.expected(run) < planned / 10  # a moment each
    assert "to the first look; at most" in capsys.readouterr().out
    assert runner.remaining(False) == 0
