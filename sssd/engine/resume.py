"""What a run that goes on shares with the one that stopped, and its parts' states."""

import dataclasses
import textwrap
from typing import Any

from sssd.data import DetectionDataset
from sssd.engine.distributed import world_size
from sssd.engine.settings import EngineConfig
from sssd.engine.state import RunError
from sssd.methods import Method


def identity(method: Method, train_set: DetectionDataset, config: EngineConfig) -> dict[str, Any]:
    """What must be the same for a run to go on as if it had not stopped."""
    # What has become of step 1's weights, a checkpoint holds.
    settings = dataclasses.replace(method.config, step1_weights=None)
    return {
        **_by_flag("method", settings),
        "data": train_set.fingerprint,
        "batch_size": config.batch_size,
        "accumulate": config.accumulate,
        "processes": world_size(),
        "seed": config.seed,
    }


def _by_flag(name: str, value: Any) -> dict[str, Any]:
    """Nested settings, each by the name of its flag."""
    if not dataclasses.is_dataclass(value):
        return {name: value}
    flags: dict[str, Any] = {}
    for part in dataclasses.fields(value):
        flags |= _by_flag(f"{name}.{part.name}", getattr(value, part.name))
    return flags


def restore(saved: dict[str, Any], parts: dict[str, Any], wanted: dict[str, Any]) -> int:
    """Puts parts of a run back to a checkpoint's state, and gives the iteration it was made at.

    Args:
        saved: the checkpoint.
        parts: what has a state dict, by name.
        wanted: what must be as it was: `identity`.

    Raises:
        RunError: something is not, or a part is another one.
    """
    for name, value in wanted.items():
        if saved.get(name) != value:
            raise RunError(
                f"the run can not be resumed: {name} is {value!r} now and was {saved.get(name)!r} "
                "when it was started. Give the same settings, or a new --out."
            )
    for name, part in parts.items():
        try:
            part.load_state_dict(saved[name])
        except (KeyError, RuntimeError, ValueError) as error:  # other names, shapes or groups
            why = textwrap.shorten(str(error), 300)
            raise RunError(
                f"the run can not be resumed: the {name} in its checkpoint does not fit this "
                f"detector and these settings: {why} Give the same settings, or a new --out."
            ) from error
    return int(saved["iteration"])
