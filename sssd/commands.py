"""What the commands share: messages for people, and exit status 2 (wrong use) or 1 (failed)."""

from __future__ import annotations

import io
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

WRONG_USE, FAILED = 2, 1


def to_resume(run: Path) -> str:
    """The flags of `sssd.train` that resume the run in a folder, as a shell takes them."""
    return f"--resume --out {shlex.quote(str(run))}"


@contextmanager
def exit_on(status: int, *errors: type[Exception]) -> Iterator[None]:
    """Ends the command with a message and a status, instead of a traceback, on some errors."""
    try:
        yield
    except errors as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(status) from error


def plain_console(**options: Any) -> Console:
    """A console that prints text as it is.

    Names of classes, files and folders may hold rich's markup ("[stop]") and emoji codes
    (":cat:"), which rich's own console would take out, replace, or stop at.

    Args:
        options: of `rich.console.Console`.
    """
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False, **options)


def plain_output() -> None:
    """Makes the standard streams such that no text and no reader can end a command.

    What their encoding lacks is shown as an escape, what nobody reads any more is
    dropped, and warnings are one line each, without the place in the source. Ctrl-C, where
    a command does not stop in its own way, is a word and no traceback.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper):  # a notebook's, or none at all
            continue
        stream.reconfigure(errors="backslashreplace")
        if stream is getattr(sys, f"__{name}__"):  # not a test's
            stream.flush()
            lasting = io.TextIOWrapper(
                io.BufferedWriter(_Lasting(stream.fileno(), "w", closefd=False)),
                stream.encoding,
                stream.errors,
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, lasting)
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    sys.excepthook = _last_words


def _last_words(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


class _Lasting(io.FileIO):
    """A stream that drops what cannot be written: `sssd ... | head` must not end a training."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:  # EPIPE: its reader ended; EIO: its terminal did; ENOSPC
            return memoryview(data).nbytes
