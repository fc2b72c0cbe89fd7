"""Files of a run: written whole or not at all."""

import contextlib
import glob
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

Weights = Literal["last", "best"]  # of a run: the final ones, or those of the best evaluation
PATIENCE = 15.0  # seconds, for a training that was killed and ends
_held: set[Path] = set()  # by this process, which a lock does not keep out


class RunError(RuntimeError):
    """A run that cannot go on for a reason outside the program; the message says the way out."""


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Holds the folder of a run, so that no other training writes there.

    The lock is the process's own: it ends with it, and processes that it has forked do not hold it.
    One that was killed may take a while to end: that long it is waited for.

    Raises:
        ValueError: another training holds it.
        RunError: the folder cannot be written.
    """
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        real = path.resolve()
        lock = None if real in _held else _lock(path)
    except OSError as error:
        raise RunError(
            f"{folder} cannot be written: {error}; choose another place with --out"
        ) from error
    if lock is None:
        raise ValueError(
            f"--out: another training is at work in {folder}; wait for it, or choose another folder"
        )
    _held.add(real)
    with lock:
        try:
            yield
        finally:
            _held.remove(real)
            with contextlib.suppress(OSError):
                path.unlink()


def _lock(path: Path) -> IO[bytes] | None:
    """The file, locked; None if another process holds it."""
    until = time.monotonic() + PATIENCE
    while True:
        lock = path.open("wb")
        try:
            import fcntl

            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                return lock  # else its last holder has removed it meanwhile
        except (BlockingIOError, PermissionError):
            if time.monotonic() > until:
                lock.close()
                return None
        except (ImportError, OSError):  # no locks: on Windows, on some file systems
            return lock
        lock.close()
        time.sleep(0.2)


def write_atomically(path: Path, save: Any) -> None:
    """Lets `save(file)` write a file that appears under its name only once it is complete.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
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


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically, as UTF-8; what that cannot hold (a lone surrogate) is escaped.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    content = text.encode(errors="backslashreplace")
    write_atomically(path, lambda file: file.write(content))
