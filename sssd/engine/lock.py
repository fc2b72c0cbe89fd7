"""One process at a time in the folder of a run or a comparison."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from sssd.engine.files import RunError

PATIENCE = 15.0  # seconds, for one that was killed and ends
_held: set[Path] = set()  # by this process, which a lock does not keep out


@contextmanager
def alone_in(folder: Path, who: str) -> Iterator[None]:
    """Holds a folder, so that nobody else writes there.

    The lock is the process's own: it ends with it, and processes that it has forked do not hold it.
    One that was killed may take a while to end: that long it is waited for.

    Args:
        folder: made if it is not there.
        who: writes there, for the message.

    Raises:
        ValueError: another process, or another part of this one, holds it.
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
            f"--out: another {who} is at work in {folder}; wait for it, or choose another folder"
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
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                return lock  # else its last holder has removed it meanwhile
        except (BlockingIOError, PermissionError):
            if time.monotonic() > until:
                lock.close()
                return None
        except OSError:  # some file systems have no locks
            return lock
        lock.close()
        time.sleep(0.2)
