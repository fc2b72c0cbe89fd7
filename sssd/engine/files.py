"""Files of a run: written whole or not at all."""

import contextlib
import glob
import os
import tempfile
from pathlib import Path
from typing import Any, Literal

Weights = Literal["last", "best"]  # of a run: the final ones, or those of the best evaluation


class RunError(RuntimeError):
    """A run that cannot go on for a reason outside the program; the message says the way out."""


def write_atomically(path: Path, save: Any) -> None:
    """Lets `save(file)` write a file that appears under its name only once it is complete.

    A link stays, and what it points to is replaced; a device or a pipe is written straight into.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    is_stream = _is_stream(path)
    path = path if is_stream else path.resolve()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if is_stream:
            with open(path, "wb") as file:
                save(file)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        # What a process left of this file that was killed while it wrote.
        for cut in path.parent.glob(glob.escape(f".{path.name}.") + "*.tmp"):
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


def _is_stream(path: Path) -> bool:
    """Whether a path is no place for a file of its own: a device, a pipe, an open file."""
    named = str(path).startswith(("/dev/std", "/dev/fd/", "/proc/"))
    return named or (path.exists() and not path.is_file() and not path.is_dir())


def require_place(flag: str, path: Path) -> None:
    """Refuses a file that cannot be written, before the work that it is to hold.

    Raises:
        ValueError: names the flag; the path is a folder, or its folder cannot be written.
    """
    if path.is_dir():
        raise ValueError(f"{flag}: {path} is a folder; name a file")
    if _is_stream(path):
        return
    try:
        folder = path.resolve().parent
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{flag}: {path} cannot be written: {error}") from error


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically, as UTF-8; what that cannot hold (a lone surrogate) is escaped.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    content = text.encode(errors="backslashreplace")
    write_atomically(path, lambda file: file.write(content))
