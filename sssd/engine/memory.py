"""Memory: how much a run takes, and what to do when there is none left."""

import os
import resource
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from sssd.engine.device import name_of
from sssd.engine.distributed import world_size
from sssd.engine.settings import EngineConfig
from sssd.engine.state import checkpoints

GB = 1e9
SIZES = ("--detector.min-size", "--detector.max-size")
NO_MEMORY = ("DefaultCPUAllocator", "ALLOC_FAILED", "out of memory")
"""What torch's allocator on a CPU, cuBLAS and cuDNN, and CUDA say in a plain RuntimeError."""


def memory_in_use(device: torch.device) -> float:
    """The most memory that this process has taken so far, in GB: the GPU's, or its own."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / GB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GB


def memory_there(device: torch.device) -> float:
    """The memory of a GPU, or of this machine, in GB."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / GB
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that the GPU or the machine has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in NO_MEMORY)


def with_less_memory(
    error: str,
    config: EngineConfig,
    settings: Mapping[str, str],
    folder: Path,
    done: int,
    device: torch.device,
) -> str:
    """What to tell of a run that had too little memory: what it had, and how it goes on with less.

    Args:
        error: what was said.
        config: settings of the loop.
        settings: those of the detector, by the names of their flags, where they are known.
        folder: the run's.
        done: steps that it has made.
        device: whose memory it was.
    """
    processes = world_size()
    at_a_time = config.part_size(processes)
    size = ", ".join(f"{flag} {settings[flag]}" for flag in SIZES if flag in settings)
    parts = [
        n
        for n in range(config.accumulate + 1, config.batch_size + 1)
        if config.batch_size % (processes * n) == 0
    ]
    if parts:
        less = f"--engine.accumulate {parts[0]}"
        why = f"{config.batch_size // (processes * parts[0])} at a time, the same training"
    else:
        less, why = "a smaller --detector.max-size, in a new run", "an image at a time is the least"
    saved = checkpoints(folder)
    if saved and parts:
        command = f"-m sssd.train --resume --out {shlex.quote(str(folder))} {less}"
        go_on = f"go on behind iteration {int(saved[-1].stem)} by `{command}` ({why})"
    else:
        go_on = f"begin again with {less} ({why})"
    return (
        f"out of memory behind iteration {done}, on {name_of(device)} with "
        f"{memory_there(device):.1f} GB: a process had {at_a_time} images at a time "
        f"(--engine.batch-size {config.batch_size}, --engine.accumulate {config.accumulate}"
        f"{', processes: ' + str(processes) if processes > 1 else ''}), sized by "
        f"{size or 'the detector'}. {go_on[0].upper()}{go_on[1:]}. It was said: {error}"
    )
