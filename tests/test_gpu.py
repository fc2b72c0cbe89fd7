"""The command of the day a GPU is there (bench/gpu.py), without one."""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import gpu, gpu_cases, gpu_speed, gpu_stages
from bench.gpu_place import Failed, Place
from tests.kernels.building import ROOT

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", "bench.gpu", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_every_stage_is_rehearsed(tmp_path: Path) -> None:
    done = run("--rehearse", "--folder", str(tmp_path))
    assert done.returncode == 0, done.stdout + (tmp_path / gpu.LOG).read_text()[-5000:]
    verdicts = gpu.read_verdicts(tmp_path)
    assert {name: one.state for name, one in verdicts.items()} == dict.fromkeys(gpu.STAGES, "PASS")
    report = (tmp_path / gpu.REPORT).read_text()
    for name, stage in gpu.STAGES.items():
        assert f"## {name}: PASS" in report
        for table in stage.tables:
            with (tmp_path / f"{table}.csv").open() as file:
                assert list(csv.DictReader(file)), table
    # A device machine gives back eight files, 16 MB each.
    assert len(list(tmp_path.iterdir())) <= 8
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 16 << 20


@NO_GPU
def test_without_a_gpu_it_says_so_in_one_line(tmp_path: Path) -> None:
    done = run("--folder", str(tmp_path))
    assert done.returncode == 2
    assert done.stdout.count("\n") == 1
    assert "no CUDA GPU" in done.stdout


def program(monkeypatch: pytest.MonkeyPatch, folder: Path, *lines: str) -> None:
    """Stands for Python, and so for every stage."""
    file = folder / "python"
    file.write_text("\n".join(["#!/bin/sh", *lines]))
    file.chmod(0o755)
    monkeypatch.setattr(gpu.sys, "executable", str(file))


def test_a_stage_that_dies_fails_alone_and_the_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu.write_verdict(tmp_path, "build", gpu.Verdict("PASS", 1.0, ["as it was"]))
    program(monkeypatch, tmp_path, "echo an illegal memory access", "kill -9 $$")
    found = gpu.run_stages(["where"], tmp_path, 60, [])["where"]
    gpu.write_verdict(tmp_path, "where", found)
    assert (found.state, found.lines[-1]) == ("FAIL", "an illegal memory access")
    assert "status -9" in found.lines[0]
    report = (tmp_path / gpu.REPORT).read_text()
    assert "- as it was" in report
    assert "**What to do.** torch does not run on this GPU" in report


def test_a_stage_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(monkeypatch, tmp_path, "sleep 60 & sleep 60")
    found = gpu.run_stages(["speed"], tmp_path, 0.2, [])["speed"]
    assert (found.state, found.seconds < 30) == ("FAIL", True)
    assert "stopped after its" in found.lines[0]


def test_a_wrong_backend_is_found_with_its_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*arguments: object, **settings: object) -> torch.Tensor:
        return true(*arguments, **settings) * (1 + 1e-3)

    true = gpu_cases.pool_boxes
    monkeypatch.setattr(gpu_cases, "pool_boxes", wrong)
    monkeypatch.setattr(gpu_stages, "run_tests", lambda place: [])
    monkeypatch.setattr(gpu_stages, "backends", lambda place: ["reference"])
    seed = next(s for s in range(100) if is_pool(s))
    monkeypatch.setattr(gpu_stages, "range", lambda count: [seed], raising=False)
    place = Place(tmp_path, rehearse=True, until=float("inf"))
    with pytest.raises(Failed, match=f"--seed {seed}"):
        gpu_stages.correct(place)
    with pytest.raises(AssertionError):
        gpu_stages.correct(place, seed)


def is_pool(seed: int) -> bool:
    """Whether the case of a seed is one of pool with objects."""
    draw = random.Random(seed)
    if draw.random() < 0.7:
        return False
    return (draw.choice(("pool", "paint", "heatmap")), draw.choice((0, 1, 5, 40, 300))) == (
        "pool",
        5,
    )


def test_what_misses_the_goal_fails_the_stage(tmp_path: Path) -> None:
    place = Place(tmp_path, rehearse=False, until=float("inf"))
    place.check(True, "all is well")
    with pytest.raises(Failed, match="slow"):
        place.check(False, "slow", ["by how much"])


def test_a_first_level_of_any_shape_fits() -> None:
    """Nothing is cut to no cells at all, which would test nothing."""
    for shift in (False, True):
        x = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
        moved = gpu_cases.moved(x, shift, "cpu")
        assert torch.equal(moved, x)
        assert moved.stride() == x.stride()
        assert (moved.storage_offset() == 1) == shift


def test_launches_are_not_counted_without_a_device() -> None:
    times = gpu_speed.times_of([lambda: torch.ones(10).add(1)], "cpu", 0.001)
    assert times.launches == 0
    assert times.low <= times.median <= times.high
    assert json.dumps(times)  # plain numbers
