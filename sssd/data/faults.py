"""What can be wrong with data: one record for every fault, and the errors that report them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Id = int | str
Severity = Literal["error", "note"]


class DataError(ValueError):
    """Data that cannot be used as it is; the message names the file, the record and the way out."""


class WorkerKilled(RuntimeError):
    """A process that loads images was killed; the message names the image it was at."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, or worth knowing, about one record of one file.

    Args:
        kind: what is wrong, one of a short list of names ("degenerate box", "missing image", ...).
        file: the file that holds the record, or the image file itself.
        record: the record in that file, such as "annotation 17" or "image 3"; empty for the file.
        message: what is wrong, with the value.
        severity: "error" for what must be repaired or left out; "note" for what is taken care of.
    """

    kind: str
    file: str
    record: str
    message: str
    severity: Severity = "error"

    def __str__(self) -> str:
        where = f"{self.file}: {self.record}" if self.record else self.file
        return f"{where}: {self.kind}: {self.message}"


def count_kinds(faults: Iterable[Fault]) -> str:
    """Say how many faults there are of each kind, most frequent first: "3 NaN box, 1 ..."."""
    kinds = Counter(fault.kind for fault in faults)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
