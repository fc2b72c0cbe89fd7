"""What a run tells: a progress bar or plain lines, and a file of metrics."""

import csv
import io
import json
import time
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from sssd.engine.files import write_atomically


class MetricsFile:
    """`metrics.jsonl`, a line a row, and `metrics.csv`, the same as a table.

    TensorBoard finds the same rows below `tensorboard`, if wanted.

    On resume the rows behind the checkpoint's iteration are dropped, so that a resumed run leaves
    the file that an uninterrupted one would have left.
    """

    def __init__(self, run: Path, iteration: int, tensorboard: bool = False) -> None:
        self.path = run / "metrics.jsonl"
        kept = [row for row in read_metrics(run) if row["iteration"] <= iteration]
        lines = "".join(json.dumps(row) + "\n" for row in kept)
        write_atomically(self.path, lambda file: file.write(lines.encode()))
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - open for the length of the run
        self._events = _events(run, iteration) if tensorboard else None

    def write(self, row: dict[str, Any]) -> None:
        """Appends a row; it must hold "iteration"."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._events is not None:
            for name, value in row.items():
                if name != "iteration":
                    self._events.add_scalar(name, value, row["iteration"])
            self._events.flush()  # a run that is killed resumes behind what is in its checkpoint

    def close(self) -> None:
        """Closes the file and writes the table."""
        self._file.close()
        if self._events is not None:
            self._events.close()
        rows = read_metrics(self.path.parent)
        columns = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        table = csv.DictWriter(text, columns)
        table.writeheader()
        table.writerows(rows)
        path = self.path.with_suffix(".csv")
        write_atomically(path, lambda file: file.write(text.getvalue().encode()))


def _events(run: Path, iteration: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter  # an extra, and slow to import

    # TensorBoard drops what an interrupted run had written behind the checkpoint's iteration.
    return SummaryWriter(str(run / "tensorboard"), purge_step=iteration + 1)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Rows of a run's metrics, oldest first; a line cut by a crash is left out."""
    path = run / "metrics.jsonl"
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class ProgressLog:
    """Progress of the loop: a bar over the newest numbers in a terminal, lines elsewhere."""

    def __init__(self, console: Console, total: int, done: int) -> None:
        self.console = console
        self.total = total
        self._start, self._done_at_start = time.monotonic(), done
        self._bar = Progress(
            MofNCompleteColumn(), BarColumn(None), TextColumn("ETA {task.fields[eta]}")
        )
        self._task = self._bar.add_task("", total=total, completed=done, eta="?")
        self._numbers = Text(no_wrap=True, overflow="ellipsis")
        self._live = Live(Group(self._bar, self._numbers), console=console)

    def __enter__(self) -> "ProgressLog":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def advance(self, iteration: int) -> None:
        """Moves the bar."""
        self._bar.update(self._task, completed=iteration, eta=self._time_left(iteration))

    def report(self, row: dict[str, Any]) -> None:
        """Shows a row of metrics."""
        numbers, iteration = summary_of(row), row["iteration"]
        if self.console.is_terminal:
            self._numbers.plain = numbers
        else:
            line = f"{iteration}/{self.total}  ETA {self._time_left(iteration)}  {numbers}"
            self.console.print(line, soft_wrap=True)

    def _time_left(self, iteration: int) -> timedelta:
        pace = (time.monotonic() - self._start) / (iteration - self._done_at_start)
        return timedelta(seconds=round(pace * (self.total - iteration)))


def summary_of(row: dict[str, Any]) -> str:
    """The numbers of a row that a person wants to see while training."""
    detection = sum(v for k, v in row.items() if k.startswith("loss/detection/"))
    parts = [f"loss {row['loss']:.3f}", f"detection {detection:.3f}"]
    teacher = [v for k, v in row.items() if k.startswith("loss/teacher/")]
    if teacher:
        parts.append(f"teacher {sum(teacher):.3f}")
    if "loss/distillation" in row:
        parts.append(f"distillation {row['loss/distillation']:.3f} (lambda {row['lambda']:g})")
    parts += [f"lr {row['learning_rate']:.2g}", f"{row['images_per_second']:.1f} images/s"]
    return "  ".join(parts)
