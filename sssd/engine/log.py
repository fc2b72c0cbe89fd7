"""What a run tells: a progress bar or plain lines, and a file of metrics."""

import csv
import io
import json
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from sssd.commands import to_resume
from sssd.engine.files import METRICS, METRICS_TABLE, RunError, write_text
from sssd.engine.loggers import Loggers

SMOOTHED = 10  # newest rows whose mean losses are shown


class MetricsFile:
    """`metrics.jsonl`, a line a row, and `metrics.csv`, the same as a table.

    On resume the rows after the checkpoint's iteration are dropped, so that a resumed run leaves
    the file that an uninterrupted one would have left. Loggers are told each row too.
    """

    def __init__(self, run: Path, iteration: int, loggers: Loggers) -> None:
        self._loggers = loggers
        self.path = run / METRICS
        kept = [row for row in read_metrics(run) if row["iteration"] <= iteration]
        lines = "".join(json.dumps(row) + "\n" for row in kept)
        write_text(self.path, lines)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - open for the length of the run

    def write(self, row: dict[str, Any]) -> None:
        """Appends a row; it must hold "iteration".

        Raises:
            RunError: the disk is full.
        """
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be written: {error}; free some disk space, then go on with "
                f"{to_resume(self.path.parent)}"
            ) from error
        others = {name: value for name, value in row.items() if name != "iteration"}
        self._loggers.log(others, row["iteration"])

    def close(self) -> None:
        """Closes the file and the loggers, and writes the table."""
        with suppress(OSError):  # a row that could not be written has been told of
            self._file.close()
        self._loggers.close()
        rows = read_metrics(self.path.parent)
        columns = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        table = csv.DictWriter(text, columns)
        table.writeheader()
        table.writerows(rows)
        write_text(self.path.with_name(METRICS_TABLE), text.getvalue())


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Rows of a run's metrics, oldest first, up to a line that was cut by a crash."""
    path = run / METRICS
    if not path.exists():
        return []
    rows = []
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
            row["iteration"]
        except (ValueError, TypeError, KeyError):
            break
        rows.append(row)
    return rows


def evaluation_of(run: Path, iteration: int) -> dict[str, float] | None:
    """The numbers of an iteration that the run has evaluated already."""
    for row in read_metrics(run):
        if row["iteration"] == iteration and "AP" in row:
            return {name: value for name, value in row.items() if name != "iteration"}
    return None


class ProgressLog:
    """Progress of the loop: a bar over the newest numbers in a terminal, one line that is written
    anew in a notebook, lines elsewhere.

    Args:
        console: where it goes.
        total: iterations of the run.
        done: those that have been made.
        left: how many evaluations come after an iteration.
        guess: what an evaluation costs in iterations, until one has been timed.
    """

    def __init__(
        self,
        console: Console,
        total: int,
        done: int,
        left: Callable[[int], int],
        guess: float,
    ) -> None:
        self.console, self.total = console, total
        self._left, self._guess = left, guess
        self._start, self._done_at_start = time.monotonic(), done
        self._evaluating: list[float] = []  # seconds
        self._scores = ""
        self._recent: deque[dict[str, Any]] = deque(maxlen=SMOOTHED)
        self._bar = Progress(
            MofNCompleteColumn(), BarColumn(None), TextColumn("ETA {task.fields[eta]}")
        )
        self._task = self._bar.add_task("", total=total, completed=done, eta="?")
        self._numbers = Text(no_wrap=True, overflow="ellipsis")
        self._live = Live(Group(self._bar, self._numbers), console=console)
        self._in_notebook = console.is_jupyter and not console.quiet
        self._width = 0  # of the line in a notebook

    def __enter__(self) -> "ProgressLog":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()
        if self._width:
            print()

    def advance(self, iteration: int) -> None:
        """Moves the bar."""
        self._bar.update(self._task, completed=iteration, eta=self._time_left(iteration))

    def report(self, row: dict[str, Any]) -> None:
        """Shows a row of metrics, its losses as their means over the newest rows."""
        self._recent.append(row)
        self._show(row["iteration"], summary_of(self._recent))

    def evaluated(self, iteration: int, scores: str, seconds: float = 0.0) -> None:
        """Shows scores from here on; those that took no time are of an earlier process."""
        self._scores = f"{scores}  "
        if seconds:
            self._evaluating.append(seconds)
            self._show(iteration, f"evaluated in {seconds:.1f} s")

    def _show(self, iteration: int, numbers: str) -> None:
        if self.console.is_terminal:
            self._numbers.plain = self._scores + numbers
        else:
            left = f"{iteration}/{self.total}  ETA {self._time_left(iteration)}  "
            line = left + self._scores + numbers
            if self._in_notebook:
                print(f"\r{line:<{self._width}}", end="", flush=True)
                self._width = len(line)
            else:
                self.console.print(line, soft_wrap=True)

    def _time_left(self, iteration: int) -> timedelta | str:
        steps = iteration - self._done_at_start
        if not steps:
            return "?"
        training = time.monotonic() - self._start - sum(self._evaluating)
        pace, times = training / steps, self._evaluating
        evaluation = sum(times) / len(times) if times else self._guess * pace
        left = pace * (self.total - iteration) + evaluation * self._left(iteration)
        return timedelta(seconds=round(left))


def summary_of(rows: Sequence[dict[str, Any]]) -> str:
    """The numbers that a person wants to see while training: the newest, and means of losses."""

    def mean(prefix: str) -> float:
        sums = [sum(v for k, v in row.items() if k.startswith(prefix)) for row in rows]
        return sum(sums) / len(sums)

    row = rows[-1]
    loss = sum(row["loss"] for row in rows) / len(rows)
    parts = [f"loss {loss:.3f}", f"detection {mean('loss/detection/'):.3f}"]
    if any(name.startswith("loss/teacher/") for name in row):
        parts.append(f"teacher {mean('loss/teacher/'):.3f}")
    if "loss/distillation" in row:
        distance = mean("loss/distillation")
        parts.append(f"distillation {distance:.3f} (lambda {row['lambda']:g})")
    parts += [f"lr {row['learning_rate']:.2g}", f"{row['images_per_second']:.1f} images/s"]
    return "  ".join([*parts, f"{row['memory_gb']:.1f} GB"])
