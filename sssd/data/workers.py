"""Worker processes that are known by the image they are at, should the system kill one."""

from __future__ import annotations

import atexit
import ctypes
import multiprocessing
import os
import signal
import weakref
from collections.abc import Iterator
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from sssd.data.dataset import DetectionDataset, Target
from sssd.data.faults import WorkerKilled

ImagesAndTargets = tuple[list[torch.Tensor], list[Target]]
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class NotedImages(Dataset[tuple[torch.Tensor, Target]]):
    """A data set whose workers note, in memory that they share with their parent, what they open.

    Args:
        dataset: what is loaded.
        workers: number of worker processes.
    """

    def __init__(self, dataset: DetectionDataset, workers: int) -> None:
        self.dataset = dataset
        self._opened = torch.full((workers,), -1).share_memory_()  # index in the data set

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Target]:
        if (worker := get_worker_info()) is not None:
            self._opened[worker.id] = index
        return self.dataset[index]

    def opened_by(self, worker: int) -> str:
        """What a worker opened last, in words."""
        index = int(self._opened[worker])
        if index < 0:
            return "it had not opened an image yet"
        width, height = self.dataset.sizes[index]
        return (
            f"the last image it opened is {self.dataset.image_path(index)} "
            f"(image {self.dataset.image_id(index)!r}, {width} x {height})"
        )


class Batches(Iterator[ImagesAndTargets]):
    """The batches of a loader; a worker that is killed is named by the image it was at.

    torch raises its error wherever the main thread is when a worker dies. So a `with` statement
    watches over what is done between two batches, and ends the workers:

        with batches:
            for images, targets in batches: ...

    Raises:
        WorkerKilled: the system killed a worker.
    """

    def __init__(self, loader: DataLoader[ImagesAndTargets], images: NotedImages) -> None:
        self._loader = loader
        self._images = images
        self._batches: Any = iter(loader)
        self._workers: list[BaseProcess] = getattr(self._batches, "_workers", [])
        _started.update(dict.fromkeys(self._workers, os.getpid()))

    def __len__(self) -> int:
        return len(self._loader)

    def __next__(self) -> ImagesAndTargets:
        try:
            return next(self._batches)
        except (EOFError, ConnectionError) as error:
            # A dying worker's connections, its sentinel too, are closed before it is gone.
            closed = wait([worker.sentinel for worker in self._workers], timeout=5)
            for worker in self._workers:
                if worker.sentinel in closed:
                    worker.join()
            self._raise_if_killed(error)
            raise
        except RuntimeError as error:
            self._raise_if_killed(error)
            raise

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close()
        if _is_of_a_worker(error):
            self._raise_if_killed(error)

    def close(self) -> None:
        """Ends the workers; there are no more batches."""
        if not self._workers:
            return
        try:
            self._batches._shutdown_workers()
        except RuntimeError as error:
            if not _is_of_a_worker(error):
                raise
        finally:
            _kill(self._workers)  # those that an error has kept from ending

    def _raise_if_killed(self, error: BaseException | None) -> None:
        """Names the image in the place of an error that a worker's end has caused."""
        for number, worker in enumerate(self._workers):
            if worker.exitcode:
                raise WorkerKilled(
                    f"a process that loads images {_end(worker.exitcode)}; "
                    f"{self._images.opened_by(number)}. If memory ran out, use fewer workers or "
                    "smaller images, or give a container more shared memory (--shm-size); --resume "
                    "continues a training run from its last checkpoint"
                ) from error


def begin_worker(worker: int, parent: int | None) -> None:
    """What a worker process of a parent does first.

    Ctrl-C, torchrun and schedulers signal every process of a run: it stops in order and then ends
    its workers, which must not be gone before.
    """
    end_with(parent)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def parent_of_workers() -> int | None:
    """What `begin_worker` is told, by the process that starts the workers; None: it cannot know.

    A worker of a fork server is the server's child, which ends with this process.
    """
    server = multiprocessing.get_start_method() == "forkserver"
    return None if server else os.getpid()


def end_with(parent: int | None) -> None:
    """Lets the system kill this process when its parent has ended, in whatever way.

    torch's own workers look whether their parent has changed since they began: one that begins when
    the parent is dead already lives for ever, with all its memory.

    Args:
        parent: the parent's number, from before this process was started: it may be gone by now.
    """
    # A Linux call; elsewhere torch's look at the parent is all there is.
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


_started: weakref.WeakKeyDictionary[BaseProcess, int] = weakref.WeakKeyDictionary()  # by whom


@atexit.register
def _end_with_the_program() -> None:
    """Workers ignore the signal by which Python ends them at exit, and then waits for ever."""
    _kill([worker for worker, parent in _started.items() if parent == os.getpid()])


def _kill(workers: list[BaseProcess]) -> None:
    for worker in workers:
        if worker.is_alive():
            worker.kill()
            worker.join()


def _is_of_a_worker(error: BaseException | None) -> bool:
    """Whether an error is the one that torch raises from a signal handler, anywhere."""
    return type(error) is RuntimeError and str(error).startswith("DataLoader worker (pid")


def _end(exitcode: int) -> str:
    if exitcode > 0:
        return f"exited with status {exitcode}"
    return f"was killed by {signal.Signals(-exitcode).name}"
