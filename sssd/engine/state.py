"""Checkpoints: written whole or not at all, the last two kept, found again after a crash."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sssd.engine.files import RunError, write_atomically

KEPT = 2


def save_checkpoint(run: Path, iteration: int, state: dict[str, Any]) -> None:
    """Writes a checkpoint of a run and removes all but the last two up to it.

    Later ones could not be read where the run went on, or it would have gone on from them.
    """
    path = run / "checkpoints" / f"{iteration:08d}.pt"
    for cut in path.parent.glob(".*.tmp"):  # by a process that was killed while it wrote
        cut.unlink(missing_ok=True)
    write_atomically(path, lambda file: torch.save(state, file))
    found = checkpoints(run)
    kept = [other for other in found if other <= path][-KEPT:]
    for other in found:
        if other not in kept:
            other.unlink(missing_ok=True)


def checkpoints(run: Path) -> list[Path]:
    """Checkpoints of a run, oldest first."""
    return sorted((run / "checkpoints").glob("[0-9]*.pt"))


def load_latest(run: Path) -> dict[str, Any] | None:
    """The newest checkpoint that can be read; None when a run has none.

    Raises:
        RunError: it has some, and none can be read.
    """
    found = checkpoints(run)
    for path in reversed(found):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            if "iteration" not in state:
                raise ValueError("it is no checkpoint of a run")
            return state
        except Exception as error:  # a truncated file fails in many ways
            warnings.warn(f"{path} cannot be read ({error}); trying the previous one", stacklevel=2)
    if found:
        raise RunError(
            f"{run}: none of its {len(found)} checkpoints can be read; start a new run with "
            "another --out"
        )
    return None


def random_state(device: torch.device) -> dict[str, Any]:
    """State of torch's generators that training on a device draws from."""
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Puts torch's generators back to a saved state."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def export_weights(path: Path, model: nn.Module, metadata: dict[str, Any]) -> None:
    """Writes weights as safetensors, which any framework reads without running code.

    Args:
        path: the file.
        model: whose state dict is written.
        metadata: what the file says of it, each value as json.
    """
    from safetensors.torch import save

    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    texts = {name: json.dumps(value) for name, value in metadata.items()}
    write_atomically(path, lambda file: file.write(save(weights, texts)))
