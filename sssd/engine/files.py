"""Files of a run: written whole or not at all."""

import contextlib
import glob
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

RECORD, REPORT = "config.json", "report.html"
METRICS, METRICS_TABLE = "metrics.jsonl", "metrics.csv"
WEIGHTS, BEST = "model.safetensors", "best.safetensors"  # at the end, and of the best evaluation
TEACHER, STEP1 = "teacher.safetensors", "step1.safetensors"
NUMBERS, NUMBERS_OF_BEST = "evaluation.json", "best.json"
CLASSES, CONFUSION, THRESHOLDS = "classes.csv", "confusion.csv", "thresholds.json"
OF_A_RUN = (
    RECORD, METRICS, METRICS_TABLE, WEIGHTS, BEST, TEACHER, STEP1, NUMBERS, NUMBERS_OF_BEST,
    CLASSES, CONFUSION, THRESHOLDS, REPORT,
)  # fmt: skip
"""What training leaves in the folder of a run; the report may be made anew."""

OPEN = re.compile(r"/dev/std(?P<name>out|err)|/(?:dev|proc/self)/fd/(?P<number>\d+)")

Weights = Literal["last", "best"]  # of a run: the final ones, or those of the best evaluation


class RunError(RuntimeError):
    """A run that cannot go on for a reason outside the program; the message says the way out."""


def write_atomically(path: Path, save: Any) -> None:
    """Lets `save(file)` write a file that appears under its name only once it is complete.

    A link stays, and what it points to is replaced; a device or a pipe is written straight into.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    if is_stream(path):
        _write_into(path, save)
        return
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # What a process left of this file that was killed while it wrote.
        for cut in path.parent.glob(glob.escape(f".{path.name}.") + "*.tmp"):
            if not _is_running(cut.name.split(".")[-2]):
                cut.unlink(missing_ok=True)
        with open(temporary, "wb") as file:
            save(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):  # its folder may be none
            temporary.unlink()
        if isinstance(error.__context__, KeyboardInterrupt):  # what torch.save made of it
            raise error.__context__ from None
        # torch.save may report a full disk as a RuntimeError of its zip writer.
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):
            raise
        raise RunError(
            f"{path} cannot be written: {error}. An existing file is unchanged; free some disk "
            "space, or choose another place with --out."
        ) from error


def _is_running(number: str) -> bool:
    """Whether there is a process of a number, on this machine."""
    return number.isdecimal() and Path(f"/proc/{number}").exists()


def is_stream(path: Path) -> bool:
    """Whether a path is no place for a file of its own: a device, a pipe, an open file."""
    is_special = path.exists() and not path.is_file() and not path.is_dir()
    return is_special or OPEN.fullmatch(str(path)) is not None


def _write_into(path: Path, save: Any) -> None:
    try:
        sys.stdout.flush()  # which it may be
        with open(_opened(path) or path, "wb") as file:
            save(file)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error}") from error


def _opened(path: Path) -> int | None:
    """A descriptor of what is open already: its place is shared, and prints come behind."""
    named = OPEN.fullmatch(str(path))
    return named and os.dup({"out": 1, "err": 2}.get(named["name"]) or int(named["number"]))


def require_place(flag: str, path: Path) -> None:
    """Refuses a file that cannot or must not be written, before the work that it is to hold.

    Raises:
        ValueError: names the flag; the path is a folder, its folder cannot be written, or it is
            an image, a COCO data set, or what training left in the folder of a run.
    """
    if path.is_dir():
        raise ValueError(f"{flag}: {path} is a folder; name a file")
    if is_stream(path):
        return
    from sssd.data.coco_files import refuse_to_overwrite  # with Pillow, which --help need not

    real = Path(os.path.realpath(path))
    refuse_to_overwrite(flag, real)
    is_of_a_run = real.name in OF_A_RUN and real.is_file() and _is_run(real.parent)
    if is_of_a_run and real.name != REPORT:
        raise ValueError(
            f"{flag}: {path} belongs to the run in this folder, and would be overwritten; choose "
            "another name"
        )
    try:
        folder = next(above for above in real.parents if above.exists())
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{flag}: {path} cannot be written: {error}") from error


def _is_run(folder: Path) -> bool:
    record = folder / RECORD
    return record.is_file() and b'"recipe"' in record.read_bytes()


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically, as UTF-8; what that cannot hold (a lone surrogate) is escaped.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    content = text.encode(errors="backslashreplace")
    write_atomically(path, lambda file: file.write(content))
