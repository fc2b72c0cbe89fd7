"""Lambda during training: by steps, milestones, or a trainer's own learning rate."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sssd.ops.inputs import as_number
from sssd.schedules import CoefficientConfig

Coefficient = float | Mapping[str, Any] | CoefficientConfig
MOST_FALLS = 2.0  # tenfold falls of a learning rate that goes to zero, as many as the paper's has


class Stepwise(nn.Module):
    """A module of a model whose lambda changes with the training steps or the learning rate.

    Args:
        coefficient: see `SelfDistillation`.
        milestones: see `SelfDistillation`.

    Raises:
        ValueError: a coefficient that is negative or not finite, or that stops before it starts.
        TypeError: a coefficient that is a function.

    Attributes:
        step: training steps so far, a buffer: it is in the state dict and in copies of the module.
        peak_rate: the highest learning rate passed to `follow`, also a buffer.
        metrics: detached scalars of the last `forward`.
    """

    attachment: Any = None  # the hooks of the integration that made this part
    step: Tensor
    peak_rate: Tensor

    def __init__(self, coefficient: Coefficient, milestones: Sequence[int]) -> None:
        super().__init__()
        self.coefficient = _as_coefficient(coefficient)
        self.milestones = tuple(sorted(milestones))
        if self.milestones and self.milestones[0] < 0:
            raise ValueError(f"milestones is {list(milestones)}: none may be below 0")
        stop = self.coefficient.stop
        if stop is not None and stop <= self.coefficient.start:
            raise ValueError(
                f"coefficient: its stop at step {stop} comes before its start at step "
                f"{self.coefficient.start}, so that nothing is distilled"
            )
        self.metrics: dict[str, Tensor | float] = {}
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("peak_rate", torch.zeros(()))
        self._on_host: tuple[int, float] | None = (0, 0.0)  # None: the buffers must be waited for
        self._versions = self._buffer_versions()
        self._is_led = False
        self._rate: float | None = None
        self._first: int | None = None
        self._is_checked = False

    def follow(self, step: int, learning_rate: float | None = None) -> None:
        """Sets the trainer's step count and learning rate for the next steps.

        Without milestones, lambda is multiplied by the coefficient's `step_factor` for every
        tenfold decrease of the learning rate below its highest so far (gradually if it decreases
        smoothly), at most twice. With a factor of 10 lambda is inversely proportional to the
        learning rate.

        Args:
            step: optimizer steps so far; it is kept until `follow` is called again, so that the
                parts of an accumulated batch share it.
            learning_rate: of the next step.
        """
        _, peak = self._read()
        if learning_rate is not None:
            peak = max(peak, learning_rate)
        self._is_led, self._rate = True, learning_rate
        self._write(step, peak)

    @property
    def count(self) -> int:
        """`step` as a number, without waiting for a device."""
        return self._read()[0]

    def resting(self, step: int) -> list[nn.Module]:
        """Parts of this module while no loss trains them: their gradients are zero.

        Take those away before the optimizer's step (`part.zero_grad(set_to_none=True)`), in which
        momentum and weight decay would move the part, as `attach` does.
        """
        return []

    def lambda_at(self, step: int) -> float:
        """Lambda of a step, also before its start."""
        return self.coefficient.at(step, self.milestones, self._falls())

    def acting_lambda_at(self, step: int) -> float:
        """Lambda of a step as it acts on the student: 0 before its start."""
        return self.coefficient.acting(step, self.milestones, self._falls())

    def _falls(self) -> float | None:
        """Tenfold falls of the learning rate; None where milestones count them."""
        if self.milestones or self._rate is None:
            return None
        _, peak = self._read()
        if self._rate <= 0:
            return MOST_FALLS if peak > 0 else 0.0
        return min(max(math.log10(peak / self._rate), 0.0), MOST_FALLS)  # peak is rounded

    def _count(self, step: int | None) -> int:
        """The step that a call belongs to: given, the trainer's, or one more than the last."""
        own, peak = self._read()
        step = own if step is None else step
        self._first = step if self._first is None else self._first
        if not self._is_checked and not self._awaits_rate(step):
            self._warn_of_idle_factor()
            self._is_checked = True
        self._write(step if self._is_led else step + 1, peak)
        return step

    def _awaits_rate(self, step: int) -> bool:
        """Whether a trainer may not have known its learning rate yet, in its first step."""
        return self._is_led and self._rate is None and step == self._first

    def _warn_of_idle_factor(self) -> None:
        applied = self.milestones or self._rate is not None
        if self.coefficient.step_factor != 1 and not applied:
            warnings.warn(
                f"step_factor {self.coefficient.step_factor:g} has no effect: lambda rises at "
                "milestones, or as the learning rate falls; pass milestones=[...], or call "
                "follow(step, learning_rate) before each step",
                stacklevel=2,
            )

    def _read(self) -> tuple[int, float]:
        # Something else may have written to the buffers, as DistributedDataParallel does with those
        # of all processes but the first.
        versions = self._buffer_versions()
        if self._on_host is None or versions != self._versions:
            self._on_host, self._versions = (int(self.step), float(self.peak_rate)), versions
        return self._on_host

    def _write(self, step: int, peak: float) -> None:
        peak = float(torch.tensor(peak, dtype=torch.float32))  # as one that is resumed reads it
        self._on_host = step, peak
        self.step.fill_(step)
        self.peak_rate.fill_(peak)
        self._versions = self._buffer_versions()

    def _buffer_versions(self) -> tuple[int, int]:
        """How often each buffer has been written to."""
        return self.step._version, self.peak_rate._version

    def __getstate__(self) -> dict[str, Any]:
        """For copies: something else may move their buffers."""
        return {**self.__dict__, "_on_host": None}

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._on_host = None


def _as_coefficient(given: Coefficient) -> CoefficientConfig:
    if isinstance(given, CoefficientConfig):
        return given
    if isinstance(given, Mapping):
        steps = {_as_step(step): value for step, value in given.get("steps", {}).items()}
        return CoefficientConfig(**{**given, "steps": steps})
    if callable(given):
        raise TypeError(
            "coefficient is a function, which a checkpoint cannot store: pass a number, or its "
            'schedule as data, {"value": 4.7, "steps": {120_000: 9.4}}'
        )
    return CoefficientConfig(value=as_number("coefficient", given))


def _as_step(given: Any) -> int:
    """A step of a schedule; json has texts."""
    step = int(given)
    if isinstance(given, float) and step != given:
        raise ValueError(f"coefficient: steps has {given}; a step is a whole number")
    return step
