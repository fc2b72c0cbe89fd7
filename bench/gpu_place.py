"""Where a stage of bench/gpu.py runs: device, time, the folder of results."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class Failed(Exception):
    """What a stage found is not as it should be: the message, then further lines."""


class Skipped(Exception):
    """What a stage needs is not on this machine."""


@dataclass(frozen=True)
class Place:
    """What every stage is given."""

    folder: Path
    rehearse: bool  # on the CPU, with tiny sizes
    until: float  # of time.monotonic: no further case is begun after it

    @property
    def device(self) -> str:
        """Where tensors live."""
        return "cpu" if self.rehearse else "cuda"

    @property
    def seconds(self) -> float:
        """That a call is timed."""
        return 0.01 if self.rehearse else 0.2

    def over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self.until

    def left(self) -> float:
        """Seconds until then, at least one."""
        return max(1.0, self.until - time.monotonic())

    def row(self, table: str, **fields: object) -> None:
        """Adds a row to a CSV at once: what was found stays if the process dies."""
        file = self.folder / f"{table}.csv"
        new = not file.exists()
        with file.open("a", newline="") as lines:
            writer = csv.DictWriter(lines, list(fields), lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(fields)

    def rows(self, table: str) -> list[dict[str, str]]:
        """Of a CSV, as they are so far."""
        file = self.folder / f"{table}.csv"
        if not file.exists():
            return []
        with file.open(newline="") as lines:
            return list(csv.DictReader(lines))

    def check(self, holds: bool, message: str, lines: Sequence[str] = ()) -> None:
        """Fail the stage unless `holds`; a rehearsal, whose times mean nothing, goes on."""
        if holds:
            return
        if self.rehearse:
            print(f"rehearsed: {message}")
        else:
            raise Failed(message, *lines)
