"""Runs that repeat to the last bit."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Lets torch take only algorithms that give the same bits each time.

    The same command on the same machine, with the same versions, number of threads and processes,
    then trains the same weights. torch cannot promise more: another kind of GPU or CPU, another
    number of threads, another version of torch or cuDNN sum in another order. An operator of
    CUDA that has no such algorithm raises a RuntimeError which names it.
    """
    if not wanted:
        yield
        return
    # Read by cuBLAS when it is first used: matrix products over several streams vary without it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before[0])
        torch.backends.cudnn.benchmark = before[1]
