"""Runs killed by SIGKILL, again and again, end as the one that was left alone, to the last bit."""

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sssd.engine.log import read_metrics
from sssd.engine.state import checkpoints
from tests.killed_run import start
from tests.scenes import write_scenes
from tests.torchrun import children, torchrun

pytestmark = pytest.mark.slow
OF_THE_MACHINE = ("images_per_second", "memory_gb")
KILLS = 7  # more, at other moments, in the next session
EVALUATE_EVERY, ITERATIONS = 4, 16
SETTINGS = [
    *("--method.name", "labelenc_step1", "--data.photometric"),  # both draw at random
    *("--schedule.iterations", str(ITERATIONS), "--schedule.milestones", "10"),
    *("--engine.batch-size", "2", "--engine.ema-decay", "0.9", "--engine.log-every", "1"),
    *("--engine.checkpoint-every", "2", "--engine.evaluate-every", str(EVALUATE_EVERY)),
    *("--detector.weights", "None", "--engine.device", "cpu"),
]
Moment = Callable[[Path, float], None]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("data")
    train, val = write_scenes(folder, "train", count=7), write_scenes(folder, "val", count=3)
    return ["--data.train", str(train), "--data.val", str(val)]


def command(data: list[str], run: Path, workers: int) -> list[str]:
    if checkpoints(run):
        return ["--resume", "--out", str(run), "--engine.workers", str(workers)]
    out = ["--out", str(run), "--engine.workers", str(workers)]
    return ["small", *data, *SETTINGS, *out]


def at_any_time(run: Path, length: float) -> None:
    time.sleep(random.uniform(0, length))


def while_saving(run: Path, length: float) -> None:
    """When a checkpoint has been begun, and is not finished."""
    wait_for(lambda: any((run / "checkpoints").glob(".*.tmp")), length)


def while_evaluating(run: Path, length: float) -> None:
    """A moment after the checkpoint before an evaluation."""
    before = {path.name for path in checkpoints(run)}
    due = {f"{i:08d}.pt" for i in range(EVALUATE_EVERY, ITERATIONS + 1, EVALUATE_EVERY)}
    wait_for(lambda: due & ({path.name for path in checkpoints(run)} - before), length)
    time.sleep(random.uniform(0, length / 50))


def wait_for(seen: Callable[[], Any], length: float) -> None:
    until = time.monotonic() + random.uniform(0.5, 1) * length
    while not seen() and time.monotonic() < until:
        time.sleep(0.0005)


def outcome(run: Path) -> dict[str, Any]:
    """Everything that a run leaves; speed and pictures aside."""
    newest = checkpoints(run)[-1]
    rows = read_metrics(run)
    return {
        "checkpoint": torch.load(newest, weights_only=True),
        "metrics": [{k: v for k, v in row.items() if k not in OF_THE_MACHINE} for row in rows],
        "weights": load_file(run / "model.safetensors"),
        "best weights": load_file(run / "best.safetensors"),
        "best": (run / "best.json").read_bytes(),
        "encoder": load_file(run / "step1.safetensors"),
        "evaluation": (run / "evaluation.json").read_bytes(),
        "files": sorted(str(path.relative_to(run)) for path in run.rglob("*")),
    }


def assert_same(found: Any, expected: Any, place: str) -> None:
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), place
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), place
        for key, value in expected.items():
            assert_same(found[key], value, f"{place}/{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), place
        for number, value in enumerate(expected):
            assert_same(found[number], value, f"{place}/{number}")
    else:
        assert found == expected, place


def finish(data: list[str], run: Path, workers: int) -> float:
    """Runs to the end; gives the seconds it took."""
    begun = time.monotonic()
    process = start(command(data, run, workers), run.with_suffix(".log"))
    process.join()
    assert process.exitcode == 0, run.with_suffix(".log").read_text()
    return time.monotonic() - begun


@pytest.fixture(scope="module")
def straight(data: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run that was left alone, and the seconds it took."""
    folder = tmp_path_factory.mktemp("straight")
    finish(data, folder / "warm", workers=0)
    return folder / "run", finish(data, folder / "run", workers=0)


def test_runs_killed_at_any_moment_end_like_one_that_was_not(
    data: list[str], straight: tuple[Path, float], tmp_path: Path
) -> None:
    expected, length = outcome(straight[0]), straight[1]
    assert [row["iteration"] for row in expected["metrics"] if "AP" in row] == [4, 8, 12, 16]
    moments: list[Moment] = [at_any_time, while_saving, at_any_time, while_evaluating]
    kills: list[str] = []
    number = 0
    while len(kills) < KILLS:
        run = tmp_path / f"killed{number}"
        for _ in range(7):
            moment = moments[len(kills) % len(moments)]
            process = start(command(data, run, workers=len(kills) % 2), run.with_suffix(".log"))
            moment(run, length)
            process.kill()
            process.join()
            if process.exitcode != -signal.SIGKILL:  # it had ended
                assert process.exitcode == 0, run.with_suffix(".log").read_text()
                break
            done = checkpoints(run)[-1].stem if checkpoints(run) else "nothing"
            kills.append(f"{moment.__name__}, {done} saved")
        finish(data, run, workers=2)
        assert_same(outcome(run), expected, f"{run.name} after {kills}")
        number += 1
    print(f"{len(kills)} kills of {number} runs of {length:.1f} s: {kills}")


def test_a_run_whose_worker_was_killed_names_the_image_and_goes_on(
    data: list[str], straight: tuple[Path, float], tmp_path: Path
) -> None:
    run, log = tmp_path / "run", tmp_path / "run.log"
    process = start(command(data, run, workers=1), log)
    wait_for(lambda: checkpoints(run), 100)
    for worker in children(process.pid):
        os.kill(worker, signal.SIGKILL)
    process.join()
    assert process.exitcode == 1
    said = log.read_text()
    assert "error: a process that loads images was killed by SIGKILL; " in said
    assert re.search(r"the last image it opened is \S+\.png \(image \d, 64 x 64\)", said)
    finish(data, run, workers=0)
    assert_same(outcome(run), outcome(straight[0]), "after the worker was killed")


def shared_by_two(data: list[str], run: Path) -> subprocess.Popen[str]:
    """The command on two processes, from the newest checkpoint if there is one."""
    return torchrun(
        *("-m", "tests.killed_run", *command(data, run, workers=1)),
        *("--engine.evaluate-every", "0", "--schedule.iterations", "8"),
    )


def test_two_processes_killed_by_their_launcher_s_end_end_like_two_that_were_not(
    data: list[str], tmp_path: Path
) -> None:
    straight, run = tmp_path / "straight", tmp_path / "run"
    alone = shared_by_two(data, straight)
    _, errors = alone.communicate(timeout=300)
    assert alone.returncode == 0, errors

    rows = random.randint(1, 6)
    machine = shared_by_two(data, run)
    wait_for(lambda: len(read_metrics(run)) >= rows, 200)
    time.sleep(random.uniform(0, 0.2))
    machine.kill()  # the launcher alone
    machine.communicate(timeout=100)  # ends when the last of its processes has closed its output
    assert machine.returncode == -signal.SIGKILL

    last = shared_by_two(data, run)
    _, errors = last.communicate(timeout=300)
    assert last.returncode == 0, errors
    assert_same(outcome(run), outcome(straight), f"killed after {rows} rows")
