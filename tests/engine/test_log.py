"""What a run tells: bar, lines and the file of metrics."""

import csv
import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from sssd.engine import log
from sssd.engine.files import RunError
from sssd.engine.log import MetricsFile, ProgressLog, read_metrics
from sssd.engine.loggers import Loggers

ROW = {
    "iteration": 3,
    "loss": 2.5,
    "loss/detection/classification": 1.0,
    "loss/detection/bbox_regression": 0.5,
    "loss/distillation": 0.25,
    "lambda": 2.0,
    "learning_rate": 0.01,
    "images_per_second": 12.0,
    "memory_gb": 1.5,
}


def make_progress(console: Console, total: int) -> ProgressLog:
    """Without evaluations to come."""
    return ProgressLog(console, total, 0, left=lambda done: 0, guess=0.0)


def no_loggers(run: Path) -> Loggers:
    return Loggers([], [], run, 0, {})


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_iteration_time_left_and_losses(terminal: bool) -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=100)
    with make_progress(console, total=6) as progress:
        progress.advance(3)
        progress.report(ROW)
    for part in ("3/6", "ETA", "loss 2.500", "detection 1.500", "(lambda 2)", "12.0 images/s",
                 "1.5 GB"):  # fmt: skip
        assert part in text.getvalue()
    assert ("━" in text.getvalue()) == terminal


def test_in_a_notebook_one_line_is_written_anew(capsys: pytest.CaptureFixture[str]) -> None:
    with make_progress(Console(force_jupyter=True), total=6) as progress:
        progress.report(ROW)
        progress.evaluated(3, "AP 1.0", 2.0)
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    nothing, first, second = said.rstrip("\n").split("\r")
    assert (nothing, first[:4], second[:4]) == ("", "3/6 ", "3/6 ")
    assert len(second) >= len(first), "nothing of the longer line is left"


def test_losses_are_the_means_of_the_newest_ten_rows() -> None:
    text = io.StringIO()
    with make_progress(Console(file=text, width=100), total=40) as progress:
        for iteration in range(1, 13):
            progress.report({**ROW, "iteration": iteration, "loss": float(iteration)})
    lines = text.getvalue().splitlines()
    assert "loss 2.000" in lines[2]
    assert "loss 7.500" in lines[-1], "3 to 12"


def test_the_time_left_has_the_evaluations_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(log, "time", SimpleNamespace(monotonic=lambda: now[0]))
    text = io.StringIO()
    progress = ProgressLog(Console(file=text, width=100), 10, 0, left=lambda done: 2, guess=5.0)
    now[0] = 4.0
    progress.report({**ROW, "iteration": 4})
    now[0] = 7.0
    progress.evaluated(4, "AP 1.0", 3.0)
    lines = text.getvalue().splitlines()
    assert "ETA 0:00:16" in lines[0], "6 steps of a second, and 2 evaluations of 5 steps"
    assert "ETA 0:00:12" in lines[1], "those took 3 seconds"


def test_metrics_behind_the_checkpoint_are_dropped_on_resume(tmp_path: Path) -> None:
    first = MetricsFile(tmp_path, 0, no_loggers(tmp_path))
    for iteration in (1, 2, 3):
        first.write({"iteration": iteration, "loss": 1.0})
    first.close()
    second = MetricsFile(tmp_path, 2, no_loggers(tmp_path))
    second.write({"iteration": 3, "loss": 0.5, "AP": 0.1})
    second.close()
    assert [row["loss"] for row in read_metrics(tmp_path)] == [1.0, 1.0, 0.5]
    with open(tmp_path / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["AP"] for row in rows] == ["", "", "0.1"]


def test_a_line_cut_by_a_crash_is_left_out(tmp_path: Path) -> None:
    whole = json.dumps({"iteration": 1, "loss": 1.0})
    (tmp_path / "metrics.jsonl").write_text(whole + "\n" + whole[:9])
    assert read_metrics(tmp_path) == [{"iteration": 1, "loss": 1.0}]


def test_tensorboard_shows_the_rows_of_the_metrics_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the tensorboard extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def loggers(run: Path, iteration: int) -> Loggers:
        return Loggers(["tensorboard"], [], run, iteration, {})

    first = MetricsFile(tmp_path, 0, loggers(tmp_path, 0))
    for iteration in (1, 2, 3, 4):
        first.write({"iteration": iteration, "loss": float(iteration)})
    first.write({"iteration": 2, "AP": 0.125})
    # Killed here, without close(), and resumed from the checkpoint of iteration 2.
    second = MetricsFile(tmp_path, 2, loggers(tmp_path, 2))
    for iteration in (3, 4):
        second.write({"iteration": iteration, "loss": -float(iteration)})
    second.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    shown = [
        (event.step, name, event.value)
        for name in events.Tags()["scalars"]
        for event in events.Scalars(name)
    ]
    written = [
        (row["iteration"], name, value)
        for row in read_metrics(tmp_path)
        for name, value in row.items()
        if name != "iteration"
    ]
    assert sorted(shown) == sorted(written)
    assert (4, "loss", -4.0) in shown
    assert len(shown) == 5


def test_rows_end_where_the_file_is_damaged(tmp_path: Path) -> None:
    whole = json.dumps({"iteration": 1, "loss": 1.0}).encode()
    for damage in (b"5", b"\xff\xfe", b"{}", b"[1]"):
        (tmp_path / "metrics.jsonl").write_bytes(whole + b"\n" + damage + b"\n" + whole)
        assert read_metrics(tmp_path) == [{"iteration": 1, "loss": 1.0}]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told_with_the_way_on(tmp_path: Path) -> None:
    closed: list[bool] = []
    loggers = no_loggers(tmp_path)
    loggers.close = lambda: closed.append(True)  # type: ignore[method-assign]
    metrics = MetricsFile(tmp_path, 0, loggers)
    metrics._file = open("/dev/full", "a")  # noqa: SIM115
    with pytest.raises(RunError, match=r"metrics\.jsonl cannot be written: .*--resume --out"):
        metrics.write({"iteration": 1, "loss": 1.0})
    metrics.close()
    assert closed
