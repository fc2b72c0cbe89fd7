"""Weights from files, and what does not fit."""

import re
from pathlib import Path

import torch
from torch import Tensor, nn


def load_weights(model: nn.Module, path: Path, flag: str, ignored: tuple[str, ...] = ()) -> None:
    """Loads a state dict, `.safetensors` or of `torch.save`, that must fit the whole model.

    Args:
        model: what the weights go into.
        path: the file.
        flag: the command-line flag that named the file, for messages.
        ignored: beginnings of the names of weights that may be missing or left over.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a file of weights, or weights of another model or number of classes.
    """
    fit_weights(model, read_weights(path, flag)[0], path, flag, ignored)


def fit_weights(
    model: nn.Module,
    state: dict[str, Tensor],
    path: Path,
    flag: str,
    ignored: tuple[str, ...] = (),
) -> None:
    """Loads the state dict that a file holds; see `load_weights`.

    Raises:
        ValueError: weights of another model or number of classes.
    """
    kept = {k: v for k, v in state.items() if not (ignored and k.startswith(ignored))}
    misfits = _misfits(model, kept, ignored)
    if misfits:
        more = f"; and {len(misfits) - 4} more" if len(misfits) > 4 else ""
        raise ValueError(
            f"{path} ({flag}) does not fit this {type(model).__name__}: "
            f"{'; '.join(misfits[:4])}{more}. "
            "Use the settings that it was trained with, and data with the same number of classes."
        )
    model.load_state_dict(kept, strict=False)


def read_weights(path: Path, flag: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads a state dict, and what a file of safetensors says of it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a file of weights.
    """
    name = f"{'step1' if 'step1' in flag else 'model'}.safetensors"  # as a run leaves it at its end
    if path.is_dir():
        runs = [folder for folder in (path, path.parent) if (folder / "config.json").is_file()]
        kind = "a run's folder" if path in runs else "a folder"
        raise FileNotFoundError(
            f"{flag}: {path} is {kind}; give the file, {[*runs, path][0] / name}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{flag}: there is no weight file {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file, safe_open

            with safe_open(path, "pt") as file:
                return load_file(path), dict(file.metadata() or {})
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each library and each kind of damage has its own
        raise ValueError(f"{path} ({flag}) {_why_unreadable(path, error)}") from error
    if isinstance(state, dict) and {"method", "optimizer", "iteration"} <= state.keys():
        run = path.resolve().parent.parent
        raise ValueError(
            f"{path} ({flag}) is a checkpoint of a run; give the run's final weights, "
            f"{run / name}. To resume the run: `python -m sssd.train --resume --out RUN`"
        )
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        holds = ", ".join(map(str, state)) if isinstance(state, dict) else type(state).__name__
        raise ValueError(
            f"{path} ({flag}) is not a state dict (tensors by name): it holds {holds[:200]}; save "
            "only the state dict with torch.save"
        )
    return state, {}


def _why_unreadable(path: Path, error: Exception) -> str:
    """What torch.load or safetensors found in a file that it could not read."""
    if of_a_class := re.search(r"GLOBAL (\S+) was not an allowed", str(error)):
        return (
            f"holds objects of {of_a_class[1]}, which are not loaded, as loading may run code; "
            "save the state dict alone, in the program that wrote it: "
            "torch.save(model.state_dict(), FILE)"
        )
    if path.suffix == ".safetensors" or isinstance(error, (RuntimeError, OSError)):
        return f"cannot be read: {error}"
    return (
        "cannot be read: it is damaged, or was not written by torch.save (a file of safetensors "
        "must end in .safetensors)"
    )


def _misfits(model: nn.Module, state: dict[str, Tensor], ignored: tuple[str, ...]) -> list[str]:
    """What keeps weights from fitting, other shapes first."""
    own = {k: v for k, v in model.state_dict().items() if not (ignored and k.startswith(ignored))}
    # Frozen batch norms have no counter; files of trainable ones do.
    counters = {k for k in state.keys() ^ own.keys() if k.endswith("num_batches_tracked")}
    shapes = [
        f"{k} is {tuple(state[k].shape)} in the file and {tuple(own[k].shape)} here"
        for k in own.keys() & state.keys()
        if own[k].shape != state[k].shape
    ]
    missing = [f"{k} is missing" for k in own.keys() - state.keys() - counters]
    unknown = [f"{k} is unexpected" for k in state.keys() - own.keys() - counters]
    return sorted(shapes) + sorted(missing) + sorted(unknown)
