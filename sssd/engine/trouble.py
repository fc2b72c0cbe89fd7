"""What to tell of a run that cannot go on as it is, and of the way out."""

from collections.abc import Mapping
from pathlib import Path

import torch

from sssd.commands import to_resume
from sssd.engine.device import name_of
from sssd.engine.distributed import world_size
from sssd.engine.memory import memory_there
from sssd.engine.settings import EngineConfig
from sssd.engine.state import checkpoints

SIZES = ("--detector.min-size", "--detector.max-size")


def out_of_memory(
    error: str,
    done: int,
    folder: Path,
    config: EngineConfig,
    settings: Mapping[str, str],
    device: torch.device,
) -> str:
    """What a process had at a time when its memory did not suffice, and how to go on with less.

    Args:
        error: what was said.
        done: steps that the run has made.
        folder: the run's.
        config: settings of the loop.
        settings: those of the detector, by the names of their flags, where they are known.
        device: whose memory it was.
    """
    processes, batch = world_size(), config.batch_size
    at_a_time = config.part_size(processes)
    size = " and ".join(f"{flag} {settings[flag]}" for flag in SIZES if flag in settings)
    shared = f", processes: {processes}" if processes > 1 else ""
    more = (n for n in range(config.accumulate + 1, batch + 1) if batch % (processes * n) == 0)
    parts, saved = next(more, None), checkpoints(folder)
    if parts is None:
        way = (
            "Start a run with a smaller --detector.max-size: each process already has only one "
            "image at a time"
        )
    else:
        less = f"--engine.accumulate {parts}"
        same = f"{batch // (processes * parts)} at a time, with the same batch per step"
        if saved:
            command = f"-m sssd.train {to_resume(folder)} {less}"
            way = f"Resume after iteration {int(saved[-1].stem)} with `{command}`: {same}"
        else:
            way = f"Start again with {less}: {same}"
    return (
        f"out of memory after iteration {done}, on {name_of(device)} with "
        f"{memory_there(device):.1f} GB. Each process had {at_a_time} images at a time "
        f"(--engine.batch-size {batch}, --engine.accumulate {config.accumulate}{shared}), sized by "
        f"{size or 'the detector'}. {way}. The error was: {error}"
    )


def diverged(what: str, done: int, folder: Path, config: EngineConfig, scaled: bool) -> str:
    """What is not finite, and which settings may help.

    Args:
        what: is not finite.
        done: steps that the run has made.
        folder: the run's.
        config: settings of the loop.
        scaled: whether it computes in fp16.
    """
    again = "start again" + (
        f" with {to_resume(folder)}: the last checkpoint was saved before that"
        if checkpoints(folder)
        else ": there is no checkpoint from before that"
    )
    wider = " or use --engine.precision bf16 or fp32" * scaled
    return (
        f"training diverged at or before iteration {done}: {what}. Lower "
        "--schedule.learning-rate, lengthen --schedule.warmup or clip the gradient "
        f"(--engine.clip-norm; it is {config.clip_norm}){wider}, and {again}."
    )
