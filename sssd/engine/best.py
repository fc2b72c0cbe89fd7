"""`best.safetensors`: the weights that detected best on the way."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from sssd.engine import distributed
from sssd.engine.files import BEST
from sssd.engine.log import read_metrics
from sssd.engine.state import export_weights

RULE = "highest AP on the validation set; the first one on a tie"


@dataclass(frozen=True)
class Best:
    """What `best.safetensors` holds.

    Attributes:
        iteration: steps that its weights have made.
        numbers: the 12 COCO numbers of its weights on the validation set.
        rule: what chose it.
    """

    iteration: int
    numbers: dict[str, float]
    rule: str = RULE

    @property
    def AP(self) -> float:
        """By which it was chosen."""
        return self.numbers["AP"]


class BestWeights:
    """Keeps the best weights of a run in its folder, and counts the evaluations since.

    The file itself says what it holds: a run that was killed after it, and resumes from a
    checkpoint before it, keeps it.

    Args:
        folder: of the run.
        done: steps that the run has made; a new run (0) does not ask what lies in the folder.
        metadata: what the file says of the weights beside.

    Attributes:
        best: so far; None before the first evaluation.
        since: evaluations since, none of which was better.
    """

    def __init__(self, folder: Path, done: int, metadata: Mapping[str, Any]) -> None:
        self.path, self.metadata = folder / BEST, metadata
        self.best = distributed.from_first(lambda: read_best(folder) if done else None)
        rows = distributed.from_first(lambda: read_metrics(folder) if done else [])
        after = self.best.iteration if self.best else done
        self.since = sum("AP" in row and after < row["iteration"] <= done for row in rows)

    def offer(self, iteration: int, numbers: dict[str, float], model: nn.Module) -> None:
        """Takes a model's weights if they are better."""
        if self.best is not None and numbers["AP"] <= self.best.AP:
            self.since = self.since + 1 if iteration > self.best.iteration else 0
            return
        self.best, self.since = Best(iteration, numbers), 0
        if distributed.is_first():
            metadata = {**self.metadata, "best": vars(self.best)}
            export_weights(self.path, model, metadata)

    def beside(self, ap: float) -> str:
        """An AP beside the best one, in percent."""
        if self.best is None:
            return f"AP {100 * ap:.1f}"
        return f"AP {100 * ap:.1f} (best {100 * self.best.AP:.1f} at {self.best.iteration})"


def read_best(folder: Path) -> Best | None:
    """What a run's `best.safetensors` says of itself; None if there is none.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / BEST
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            return Best(**json.loads((file.metadata() or {})["best"]))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a valid file of a run: {error}; remove it") from error
