"""What the commands share: messages for people, and exit status 2 (wrong use) or 1 (failed)."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

WRONG_USE, FAILED = 2, 1


@contextmanager
def exit_on(status: int, *errors: type[Exception]) -> Iterator[None]:
    """Ends the command with a message and a status, instead of a traceback, on some errors."""
    try:
        yield
    except errors as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(status) from error


def plain_warnings() -> None:
    """Shows warnings as one line each, without the place in the source."""
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
