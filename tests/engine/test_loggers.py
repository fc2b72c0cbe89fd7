"""Who is told the metrics: a function, W&B offline, MLflow in a folder; none ends a training."""

import json
import os
import struct
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sssd.engine.log import MetricsFile
from sssd.engine.loggers import Loggers
from sssd.engine.settings import EngineConfig

SETTINGS = {"--engine.seed": 3, "the training data's fingerprint": "abc"}


class Hook:
    """A logger of the user's own."""

    def __init__(self) -> None:
        self.told: list = []

    def __call__(self, row: dict, step: int) -> None:
        self.told.append((step, dict(row)))

    def close(self) -> None:
        self.told.append("closed")


def test_a_function_is_told_each_row_and_one_that_fails_is_left_out(tmp_path: Path) -> None:
    hook, asked = Hook(), []

    def failing(row: dict, step: int) -> None:
        asked.append(step)
        raise ConnectionError("no network")

    metrics = MetricsFile(tmp_path, 0, Loggers([], [failing, hook], tmp_path, 0, SETTINGS))
    with pytest.warns(UserWarning, match=r"logger failing \(0\) failed.*no network"):
        metrics.write({"iteration": 1, "loss": 2.0})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics.write({"iteration": 2, "AP": 0.5})
        metrics.close()
    assert asked == [1]
    assert hook.told == [(1, {"loss": 2.0}), (2, {"AP": 0.5}), "closed"]


def test_one_that_cannot_be_opened_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.warns(UserWarning, match="logger wandb failed") as told:
        loggers = Loggers(["wandb"], [], tmp_path, 0, SETTINGS)
    loggers.log({"loss": 1.0}, 1)
    loggers.close()
    assert len(told) == 1


def test_unknown_ones_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"--engine.loggers is 'comet'; .* tensorboard, wandb, ml"):
        EngineConfig(loggers=("comet",))  # type: ignore[arg-type]


# In a process of their own: both leave threads, W&B a process if it is not closed, and their
# imports are slow beside other tests'.
PROGRAM = """
import json, os, sys, time
from pathlib import Path
from sssd.engine.loggers import Loggers
from tests.torchrun import family

name, run = sys.argv[1], Path(sys.argv[2])
rows = {i: {"loss": 1.0 / i, "loss/detection/x": 0.5, "AP": 0.1 * i} for i in range(1, 6)}
for begin, steps in ((0, (1, 2, 3)), (2, (3, 4, 5))):  # killed after 3, its checkpoint is of 2
    loggers = Loggers([name], [], run, begin, json.loads(sys.argv[3]))
    for step in steps:
        loggers.log(rows[step], step)
    loggers.close()
    time.sleep(1.1)  # W&B names a part by its second
print(json.dumps([Path(f"/proc/{p}/cmdline").read_text() for p in family(os.getpid())[1:]]))
"""


def log_and_go_on(name: str, run: Path, **environment: str) -> None:
    """Logs twice from a program of its own, which must warn of nothing and leave no process."""
    run.mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", PROGRAM, name, str(run),
         json.dumps(SETTINGS)],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [], "left behind"


def test_mlflow_keeps_a_run_in_a_folder_and_goes_on_with_it(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="needs the mlflow extra")
    log_and_go_on("mlflow", tmp_path / "run", DO_NOT_TRACK="true")
    (name,) = (path.read_text().strip() for path in (tmp_path / "run").glob("mlflow_id.txt"))
    (kept,) = (tmp_path / "run/mlruns").glob(f"*/{name}")
    for metric in ("loss", "loss.detection.x", "AP"):
        points = (kept / "metrics" / metric).read_text().splitlines()
        assert [int(point.split()[2]) for point in points] == [1, 2, 3, 4, 5], "each step once"
    assert (kept / "params/engine.seed").read_text() == "3"
    assert "status: 3" in (kept / "meta.yaml").read_text(), "finished"


def test_wandb_offline_is_one_run_that_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="needs the wandb extra")
    log_and_go_on("wandb", tmp_path / "run", WANDB_MODE="offline", WANDB_SILENT="true")
    name = (tmp_path / "run/wandb_id.txt").read_text().strip()
    kept = sorted((tmp_path / "run/wandb").glob(f"offline-run-*-{name}"))
    assert len(kept) == 2, "both parts of one run"
    records = [record for folder in kept for record in records_of(folder / f"run-{name}.wandb")]
    steps = [record.history.step.num for record in records if record.HasField("history")]
    assert sorted(set(steps)) == [1, 2, 3, 4, 5]


def records_of(path: Path) -> Iterator[Any]:
    """What W&B has written: LevelDB's log format behind a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, place, parts = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""
