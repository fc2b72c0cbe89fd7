"""The training command as a process of its own, with a detector that trains in milliseconds.

It draws no report, which would take most of the time and are no part of a run's state.
"""

import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

# A process that has imported the package and done nothing else forks the runs: each saves the
# seconds of importing torch, before which there is nothing of a run that a kill could harm.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["sssd.train"])


def start(arguments: list[str], log: Path) -> BaseProcess:
    """Starts `python -m sssd.train` with some arguments."""
    process = CONTEXT.Process(target=_train, args=(arguments, str(log)))
    process.start()
    return process


def _train(arguments: list[str], log: str) -> None:
    multiprocessing.set_start_method("fork", force=True)  # of loader workers, as in the command
    sys.stdout = sys.stderr = open(log, "a", buffering=1)  # noqa: SIM115
    os.dup2(sys.stdout.fileno(), 2)
    sys.exit(train(arguments))


def train(arguments: list[str]) -> int:
    """The command's exit status."""
    import torch

    import sssd.fitting
    import sssd.train
    from tests.tiny import tiny_detector

    torch.set_num_threads(1)
    sssd.fitting.build_detector = lambda _, classes, *rest, load: tiny_detector(classes=classes)
    sssd.fitting.draw_report = lambda *_: None
    return sssd.train.main(arguments)


if __name__ == "__main__":  # started by torchrun
    sys.exit(train(sys.argv[1:]))
