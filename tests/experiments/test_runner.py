"""Runs are made once, kept at once and gone on with."""

import contextlib
import csv
import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console

from sssd.experiments.__main__ import main
from sssd.experiments.cost import step_seconds
from sssd.experiments.plans import (
    PROFILES,
    Variants,
    changed,
    digits,
    methods,
    methods_at_equal_time,
    plain,
)
from sssd.experiments.runner import run_all
from sssd.recipes import Config, stretched
from tests.runs import InThisProcess
from tests.scenes import write_scenes
from tests.tiny import tiny_detector
from tests.torchrun import family

QUIET = Console(quiet=True)


@pytest.fixture
def base(tmp_path: Path) -> Config:
    """Two iterations of a small detector on a few scenes."""
    config = stretched(digits(), 2)
    data = tmp_path / "data"
    train, val = write_scenes(data, "train"), write_scenes(data, "val", count=3)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, format=None, train=train, val=val),
        detector=dataclasses.replace(
            config.detector, backbone="resnet18", weights=None, min_size=(64,), max_size=64
        ),
        engine=dataclasses.replace(
            config.engine, batch_size=2, log_every=1, checkpoint_every=1, ema_decay=None
        ),
    )


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs are made by this process, of a detector that trains in milliseconds."""
    monkeypatch.setattr("sssd.experiments.runner.ProcessPoolExecutor", InThisProcess)
    monkeypatch.setattr(
        "sssd.train.build_detector", lambda _, classes: tiny_detector("fcos", classes)
    )


def two(base: Config) -> Variants:
    return {"plain": plain(base), "SSSD, all": base}


def test_lgd_has_its_own_fusion_and_adapter(tmp_path: Path) -> None:
    variants = methods(digits(), tmp_path)
    lgd, sssd = variants["LGD"].method, variants["SSSD, fixed"].method
    assert (lgd.fusion.name, lgd.adapter) == ("relation", "full")
    assert (sssd.fusion.name, sssd.adapter) == ("painted", "separable")


@pytest.mark.usefixtures("here")
def test_every_variant_is_run_once_with_every_seed(base: Config, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    rows = run_all(two(base), (0, 1), folder, 2, QUIET)
    assert {(row["variant"], row["seed"]) for row in rows} == {
        (name, seed) for name in ("plain", "SSSD, all") for seed in "01"
    }
    assert all(0 <= float(row["AP"]) <= 1 and row["iterations"] == "2" for row in rows)
    assert (folder / "SSSD-all-seed1" / "model.safetensors").exists()
    before = (folder / "results.csv").stat().st_mtime_ns
    assert run_all(two(base), (0, 1), folder, 1, QUIET) == rows
    assert (folder / "results.csv").stat().st_mtime_ns == before
    told = r"'SSSD, all' after 2 iterations with other settings \(.*SSSD-all-seed0/config.json\).*"
    mirrored = dataclasses.replace(base, data=dataclasses.replace(base.data, flip=1.0))
    for other in (stretched(base, 3), changed(base, adapter="none"), mirrored):
        with pytest.raises(ValueError, match=told + "give another folder"):
            run_all({"SSSD, all": other}, (0,), folder, 1, QUIET)


@pytest.mark.usefixtures("here")
def test_a_lost_result_is_found_again_from_the_checkpoint(
    base: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, variants = tmp_path / "out", {"plain": two(base)["plain"]}
    (row,) = run_all(variants, (0,), folder, 1, QUIET)
    (folder / "results.csv").unlink()
    newest = max((folder / "plain-seed0" / "checkpoints").iterdir())
    newest.unlink()  # killed between the first iteration and the end
    other = {"plain": changed(variants["plain"], adapter="none")}
    assert run_all(other, (0,), folder, 1, Console(width=1000)) == []
    assert "'plain-seed0' after 2 planned iterations with other settings" in capsys.readouterr().out
    (again,) = run_all(variants, (0,), folder, 1, QUIET)
    assert again["AP"] == row["AP"]


@pytest.mark.usefixtures("here")
def test_a_failed_run_is_told_and_the_others_go_on(
    base: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    wild = dataclasses.replace(base.schedule, learning_rate=1e30)
    variants = {"wild": dataclasses.replace(base, schedule=wild), "SSSD": base}
    rows = run_all(variants, (0,), folder, 1, Console())
    assert [row["variant"] for row in rows] == ["SSSD"]
    assert "wild, seed 0 failed: training diverged" in capsys.readouterr().out


@pytest.fixture
def endless(base: Config, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Two of six runs have begun, in tmp_path/out, and will not end."""
    long = {"plain": stretched(two(base)["plain"], 10_000)}
    pickled = tmp_path / "variants.pickle"
    pickled.write_bytes(pickle.dumps(long))
    # In a process of its own, as at a terminal: the signal goes to it and to all that it started.
    program = (
        "import pickle, signal; from pathlib import Path; from rich.console import Console\n"
        "from sssd.experiments.runner import run_all\n"
        "if __name__ == '__main__':\n"
        # Whoever runs the tests in the background may have it ignored.
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"    variants = pickle.loads(Path({str(pickled)!r}).read_bytes())\n"
        f"    run_all(variants, range(6), Path({str(tmp_path / 'out')!r}), 2, Console())\n"
    )
    script = tmp_path / "script.py"
    script.write_text(program)
    process = subprocess.Popen(
        [sys.executable, script], start_new_session=True, stdout=subprocess.PIPE, text=True
    )
    runs = tmp_path / "out"
    try:
        while len([run for run in runs.glob("*") if any(run.glob("checkpoints/*.pt"))]) < 2:
            assert process.poll() is None
            time.sleep(0.1)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_ctrl_c_stops_all_runs_and_keeps_what_is_done(
    endless: subprocess.Popen[str], tmp_path: Path
) -> None:
    os.killpg(endless.pid, signal.SIGINT)
    out, _ = endless.communicate(timeout=60)
    assert "stopped; the same command goes on" in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"plain-seed0", "plain-seed1"}


@pytest.mark.slow
def test_runs_end_with_a_command_that_was_killed(endless: subprocess.Popen[str]) -> None:
    assert len(family(endless.pid)) > 2
    endless.kill()  # it alone
    endless.communicate(timeout=60)  # ends when the last of them has closed its output


def test_a_run_that_the_system_kills_is_told(
    base: Config,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sssd.experiments.runner._run", _die)
    assert run_all(two(base), (0,), tmp_path / "out", 1, Console()) == []
    assert "the system killed a run" in capsys.readouterr().out


def _die(*arguments: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.usefixtures("here")
def test_the_command_leaves_a_table_and_a_plot(
    base: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(PROFILES, "digits", lambda: base)  # the default: nothing to download
    out = tmp_path / "out"
    arguments = ["methods", "--seeds", "0", "--out", str(out), "--iterations", "1"]
    assert main([*arguments, "--variants", "plain", "LGD"]) == 0
    lines = (out / "table.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines] == ["| variant", "| ---", "| plain", "| LGD"]
    assert (out / "plot.png").stat().st_size > 0
    assert "| LGD | 1 | 1 |" in capsys.readouterr().out
    with (out / "results.csv").open() as file:
        assert [row["torch"] for row in csv.DictReader(file)] == [torch.__version__] * 2


def test_equal_time_is_measured_once(base: Config, tmp_path: Path) -> None:
    seconds = {"plain": 1, "LGD": 3, "SSSD, fixed": 2, "SSSD, stepwise": 2}
    (tmp_path / "seconds_a_step.json").write_text(json.dumps(seconds))
    variants = methods_at_equal_time(base, tmp_path)
    assert {name: config.schedule.iterations for name, config in variants.items()} == {
        "plain": 6,
        "LGD": 2,
        "SSSD, fixed": 3,
        "SSSD, stepwise": 3,
    }


def test_a_step_is_timed(base: Config) -> None:
    seconds = step_seconds(two(base), rounds=1)
    assert seconds.keys() == two(base).keys()
    assert all(value > 0 for value in seconds.values())


def test_absent_blood_cells_are_told_before_the_first_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SSSD_DATA", str(tmp_path / "absent"))
    with pytest.raises(SystemExit) as exit_info:
        main(["methods", "--profile", "bccd", "--out", str(tmp_path / "out")])
    assert exit_info.value.code == 2
    message = capsys.readouterr().err
    assert "absent/bccd/annotations" in message
    assert "--profile digits" in message
    assert not (tmp_path / "out").exists()


def test_an_unknown_variant_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["methods", "--variants", "SSD"])
    assert exit_info.value.code == 2
    message = capsys.readouterr().err
    assert "'SSD'" in message
    assert "SSSD, stepwise" in message
