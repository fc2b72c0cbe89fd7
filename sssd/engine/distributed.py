"""Several processes that train one model, as torchrun starts them.

A process that was started alone is the first of one: every function here then does nothing, or
hands back what it was given. What is not a gradient travels over gloo on the CPU, so that NCCL
carries gradients alone.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import cache
from itertools import count
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from rich.console import Console
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sssd.commands import plain_console
from sssd.data.workers import end_with

T = TypeVar("T")
_joined = count()


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """Joins the processes that torchrun started, and leaves when all have come to the end.

    Inside of another one, or of a group that the program has joined by itself, it does nothing.

    Args:
        device: as in `choose_device`; gradients go over NCCL between GPUs, over gloo else.

    Raises:
        ValueError: a process without a GPU of its own, or one of several that another program
            than torchrun has started, or a GPU that all processes would share.
    """
    if dist.is_initialized():
        yield
        return
    if not dist.is_torchelastic_launched():
        others = os.environ.get("WORLD_SIZE", "1")
        if others != "1" and "RANK" in os.environ:
            raise ValueError(
                f"WORLD_SIZE is {others} and RANK {os.environ['RANK']}, but torchrun did not start "
                "this process, so each would train by itself: start them with torchrun, call "
                "torch.distributed.init_process_group() before, or unset both"
            )
        yield
        return
    place, number = choose_device(device), int(os.environ.get("LOCAL_RANK", "0"))
    if place.index not in (None, number) and torch.cuda.device_count() > 1:
        raise ValueError(
            f"--engine.device {device}: all processes of this machine would take this GPU; with "
            "'cuda' each takes that of its number"
        )
    # Left alone when torchrun is killed, it would train on in its run's folder, beside the same
    # command started again. One whose launcher is gone by now finds no others to join.
    end_with(os.getppid())
    # Each time under new keys: torchrun's store still has the addresses of a group that was left.
    store = dist.PrefixStore(f"sssd/{next(_joined)}", _store())
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo",
        store=store,
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
    )
    try:
        yield
        # torchrun ends all others as soon as one has failed: none may leave with the status of an
        # interrupted run while the first still writes.
        dist.barrier(_cpu_group())
    finally:
        dist.destroy_process_group()
        _cpu_group_of.cache_clear()


@cache
def _store() -> dist.Store:
    """Where the processes that torchrun started find each other."""
    store, _, _ = next(dist.rendezvous("env://"))
    return store


def _cpu_group() -> dist.ProcessGroup:
    """The group for what is not a gradient, which lies on the CPU."""
    return _cpu_group_of(dist.group.WORLD)


@cache
def _cpu_group_of(world: dist.ProcessGroup) -> dist.ProcessGroup:
    # What the first process does alone (a check of the data, an evaluation) may take hours, while
    # the others wait; one that has died is noticed at once.
    return cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=timedelta(days=1)))


def choose_device(name: str) -> torch.device:
    """The device that a name stands for; "auto" is a GPU where there is one.

    Of several processes on a machine each takes the GPU of its number.

    Raises:
        ValueError: a device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and torch.cuda.is_available():
        number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if number >= there:
            raise ValueError(
                f"process {number} on this machine has no GPU, as there are only {there}: start "
                f"torchrun with --nproc-per-node {there}, or train with --engine.device cpu"
            )
        torch.cuda.set_device(number)
        name = f"cuda:{number}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "meta":
            raise RuntimeError("it computes nothing")
    except (RuntimeError, AssertionError) as error:
        why = str(error).partition("\n")[0]
        raise ValueError(
            f"device {name!r} cannot be used here ({why[:200]}); use 'cpu', 'cuda', 'cuda:1' or "
            "'auto', which takes a GPU if there is one"
        ) from error
    return device


def rank() -> int:
    """Number of this process, 0 .. world_size() - 1."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together, on all machines."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the process that reads and writes the run and talks."""
    return rank() == 0


def console() -> Console:
    """Where this process talks: nowhere, unless it is the first."""
    return plain_console() if is_first() else plain_console(quiet=True, force_terminal=False)


def from_first(make: Callable[[], T]) -> T:
    """What the first process makes, on every process; the others do not call `make`."""
    if world_size() == 1:
        return make()
    box: list[Any] = [make() if is_first() else None]
    dist.broadcast_object_list(box, group=_cpu_group())
    return cast(T, box[0])


def gather(value: T) -> list[T]:
    """The values of all processes in their order, on the first; nothing on the others."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size() if is_first() else []
    dist.gather_object(value, values if is_first() else None, group=_cpu_group())
    return values


def mean(numbers: dict[str, float]) -> dict[str, float]:
    """Each number's mean over the processes, which must all give the same names."""
    if world_size() == 1:
        return numbers
    values = torch.tensor(list(numbers.values()), dtype=torch.float64)
    dist.all_reduce(values, group=_cpu_group())
    return dict(zip(numbers, (values / world_size()).tolist(), strict=True))


def largest(number: int) -> int:
    """The largest of all processes' numbers."""
    if world_size() == 1:
        return number
    value = torch.tensor(number)
    dist.all_reduce(value, dist.ReduceOp.MAX, _cpu_group())
    return int(value)


def with_shared_gradients(model: nn.Module) -> nn.Module:
    """The model, whose backward pass averages the gradients of all processes."""
    if world_size() == 1:
        return model
    return DistributedDataParallel(model, gradient_as_bucket_view=True)


def own_gradients(model: nn.Module) -> AbstractContextManager[None]:
    """Keeps the gradients on their process, to be averaged with those of a later backward pass."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def buffers_from_first(model: nn.Module) -> None:
    """Gives every process the first one's buffers, in which the last step has told them apart:
    batch norm's running statistics, and their moving average.
    """
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
