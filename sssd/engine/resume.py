"""What a run that goes on shares with the one that stopped, and its parts' states."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sssd.data.settings import SOURCE
from sssd.engine.files import RunError
from sssd.engine.record import by_flag
from sssd.engine.settings import EngineConfig

if TYPE_CHECKING:
    import torch

    from sssd.data import DetectionDataset
    from sssd.methods import Method

HONOURED = frozenset(
    [
        *("--out", "--resume"),
        # What is read is compared by its fingerprint.
        *(flag for flag in SOURCE if flag != "--data.pixel-range"),
        # Functions of the iteration alone, and what only the next step depends on.
        *("--schedule.iterations", "--schedule.epochs", "--schedule.learning-rate"),
        "--schedule.milestones",
        *("--schedule.gamma", "--schedule.warmup", "--schedule.warmup-factor"),
        "--schedule.zero-from",
        *("--engine.backbone-factor", "--engine.weight-decay", "--engine.clip-value"),
        *("--engine.clip-norm", "--engine.precision", "--engine.accumulate"),
        # How it is computed and told.
        *("--engine.device", "--engine.channels-last"),
        *("--engine.deterministic", "--engine.workers", "--engine.log-every"),
        *("--engine.checkpoint-every", "--engine.evaluate-every", "--engine.evaluate-with"),
        *("--engine.patience", "--engine.loggers"),
    ]
)
"""Settings that hold from where a run goes on; every other must be what it was."""


def compared(settings: Any, prefix: str = "--") -> dict[str, str]:
    """The settings that must be what they were, in words, by the names of their flags."""
    return {f: str(v) for f, v in by_flag(settings, prefix).items() if f not in HONOURED}


def refuse_changes(was: Mapping[str, Any], now: Mapping[str, str]) -> None:
    """Refuses what is not as it was, with both values.

    Raises:
        ValueError: names each flag.
    """
    changed = [f"{f} is now {v} and was {was.get(f)}" for f, v in now.items() if was.get(f) != v]
    if changed:
        raise ValueError(
            f"the run cannot be resumed: {'; '.join(changed)}. Nothing was written. Leave it out "
            "(`--resume --out RUN` uses the run's own settings), or start a new run with another "
            "--out."
        )


def identity(
    method: Method,
    train_set: DetectionDataset,
    validation_set: DetectionDataset,
    config: EngineConfig,
    others: Mapping[str, str],
) -> dict[str, str]:
    """What must be the same for a run to go on as if it had not stopped."""
    from sssd.engine.distributed import world_size

    return {
        **others,
        **compared(method.config, "--method."),
        **compared(config, "--engine."),
        "the training data's fingerprint": train_set.fingerprint,
        "the validation data's fingerprint": validation_set.fingerprint,
        "the number of processes": str(world_size()),
    }


def restore(saved: dict[str, Any], parts: dict[str, Any], wanted: dict[str, str]) -> int:
    """Puts parts of a run back to a checkpoint's state, and gives the iteration it was made at.

    Args:
        saved: the checkpoint.
        parts: what has a state dict, by name.
        wanted: what must be as it was: `identity`.

    Raises:
        RunError: something is not, or a part is another one.
    """
    import torch  # seconds, which --help need not
    from torch.amp.grad_scaler import GradScaler

    try:
        refuse_changes(saved.get("identity", {}), wanted)
    except ValueError as error:
        raise RunError(str(error)) from error
    for name, part in parts.items():
        try:
            if isinstance(part, torch.optim.Optimizer):
                _load_moments(part, saved[name])
            elif isinstance(part, GradScaler):
                if saved[name]:  # empty in another precision, from which the run may go on
                    part.load_state_dict(saved[name])
            else:
                part.load_state_dict(saved[name])
        except (KeyError, RuntimeError, ValueError) as error:  # other names, shapes or groups
            why = textwrap.shorten(str(error), 300)
            raise RunError(
                f"the run cannot be resumed: the {name} in its checkpoint does not fit this "
                f"detector and these settings: {why} Use the same settings, or another --out."
            ) from error
    return int(saved["iteration"])


def _load_moments(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """An optimizer's memory of its gradients; its rates and decay stay those of the settings."""
    settings = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
