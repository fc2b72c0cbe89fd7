"""Leaving a run in good order when it is told to stop."""

import os
import signal
import threading
from contextlib import suppress
from types import FrameType

from torch.distributed import is_torchelastic_launched

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopSignals:
    """Turns Ctrl-C, SIGTERM and SIGUSR1 into a flag that the loop reads between two steps.

    A second signal ends the process at once, as it would without this. Not under torchrun: it
    passes on what the terminal or a scheduler may have sent to every process already, and ends
    by itself those that take too long.

    Python hands signals to the main thread alone: in another one they are left as they are.

    Attributes:
        received: the signal that arrived, if any.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def __enter__(self) -> "StopSignals":
        here = threading.current_thread() is threading.main_thread()
        numbers = SIGNALS if here else ()
        self._before = {number: signal.signal(number, self._receive) for number in numbers}
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        if not is_torchelastic_launched():
            self._restore()
            with suppress(OSError):  # by no buffer, which it may have interrupted
                os.write(2, b"stopping in good order; a second signal ends at once\n")

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
