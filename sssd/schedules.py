"""Learning rate and distillation coefficient as functions of the iteration, from one list of
milestones.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real

REFERENCE_BATCH = 16  # images a step for which a recipe states its learning rate


def require_real(flag: str, value: float | None, hint: str = "", *, positive: bool = False) -> None:
    """Refuses what is no finite number of 0 or more, or above 0; None passes."""
    if value is None or (math.isfinite(value) and (value > 0 or (value == 0 and not positive))):
        return
    least = "above 0" if positive else "of 0 or more"
    raise ValueError(f"{flag} is {value}; it must be a finite number {least}{hint}")


@dataclass(frozen=True)
class ScheduleConfig:
    """How long training takes and how the learning rate moves."""

    iterations: int = 180_000
    """Optimizer steps; milestones, warm-up and lambda's start scale with them unless given."""

    epochs: float | None = None
    """Length in epochs, instead of iterations; milestones, warm-up and lambda's start scale with
    it."""

    learning_rate: float = 0.01
    """Base learning rate for a batch of 16 images; scaled linearly with the batch size."""

    milestones: tuple[int, ...] = (120_000, 160_000)
    """Iterations at which the learning rate is multiplied by gamma."""

    gamma: float = 0.1
    """Factor by which the learning rate is multiplied at each milestone."""

    warmup: int = 1000
    """Iterations of linear warm-up."""

    warmup_factor: float = 1e-3
    """Learning rate at the start of the warm-up, as a fraction of the full rate."""

    zero_from: int | None = None
    """Iteration from which the learning rate is 0."""

    def __post_init__(self) -> None:
        """Refuses schedules that cannot be followed."""
        if self.iterations < 1:
            raise ValueError(f"--schedule.iterations is {self.iterations}; it must be at least 1")
        if self.epochs is not None and not 0 < self.epochs < math.inf:
            raise ValueError(f"--schedule.epochs is {self.epochs}; it must be a number above 0")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(
                f"--schedule.milestones is {self.milestones}; the iterations must increase"
            )
        if self.zero_from is not None and self.zero_from < 1:
            raise ValueError(f"--schedule.zero-from is {self.zero_from}; it must be at least 1")
        if self.milestones and self.milestones[0] < 0:
            raise ValueError(f"--schedule.milestones is {self.milestones}; none may be below 0")
        require_real("--schedule.learning-rate", self.learning_rate, positive=True)
        require_real("--schedule.gamma", self.gamma)
        require_real("--schedule.warmup", self.warmup)
        require_real("--schedule.warmup-factor", self.warmup_factor)

    def factor(self, iteration: int) -> float:
        """Learning rate of an iteration, as a fraction of the scaled base."""
        if self.zero_from is not None and iteration >= self.zero_from:
            return 0.0
        decay = self.gamma ** bisect_right(self.milestones, iteration)
        if iteration >= self.warmup:
            return decay
        progress = iteration / self.warmup
        return decay * (self.warmup_factor * (1 - progress) + progress)

    def scaled_learning_rate(self, batch_size: int) -> float:
        """Base learning rate for `batch_size` images a step (linear scaling, Goyal et al. 2017)."""
        return self.learning_rate * batch_size / REFERENCE_BATCH


@dataclass(frozen=True)
class CoefficientConfig:
    """The distillation coefficient, lambda."""

    value: float = 1.0
    """lambda at the start of distillation; 0 turns distillation off, which is plain training, bit
    for bit."""

    step_factor: float = 1.0
    """Factor by which lambda is multiplied at each learning-rate milestone; 1 keeps it fixed.
    SSSD's stepwise rule raises it, so that distillation stays effective as the learning rate
    decays."""

    steps: dict[int, float] = field(default_factory=dict)
    """Explicit schedule {iteration: lambda from then on}; it replaces value and step_factor from
    its first iteration on."""

    start: int = 0
    """Iteration at which distillation of the student starts; before it the distance trains only the
    adapter, if there is one."""

    stop: int | None = None
    """Iteration at which distillation ends; from then on a step costs as much as in plain training.
    (LGD's own `POST_NONDISTILL_ITERS` still runs the head on K_e.)"""

    def __post_init__(self) -> None:
        """Refuses coefficients that are negative or not finite, and steps below 0."""
        numbers = ("value", self.value), ("step_factor", self.step_factor)
        for name, number in (*numbers, *(("steps", x) for x in self.steps.values())):
            if isinstance(number, bool) or not isinstance(number, Real):
                raise TypeError(f"coefficient: {name} is {number!r}; it must be a number")
            require_real(f"coefficient: {name}", float(number))
        for name, step in (("start", self.start), *(("steps", x) for x in self.steps)):
            if step < 0:
                raise ValueError(f"coefficient: {name} has step {step}; it must be 0 or more")

    @property
    def is_off(self) -> bool:
        """Whether lambda is zero throughout."""
        return not (self.value or any(self.steps.values()))

    def has_stopped(self, iteration: int) -> bool:
        """Whether distillation is over at an iteration."""
        return self.stop is not None and iteration >= self.stop

    def acting(
        self, iteration: int, milestones: Sequence[int], falls: float | None = None
    ) -> float:
        """Lambda as it acts on the student: 0 before the start."""
        return self.at(iteration, milestones, falls) if iteration >= self.start else 0.0

    def at(self, iteration: int, milestones: Sequence[int], falls: float | None = None) -> float:
        """Lambda at an iteration (SSSD, section 3.3; Figure 3).

        Args:
            iteration: optimizer steps taken before it.
            milestones: iterations at which the learning rate falls, ascending.
            falls: how often the learning rate has fallen, if this is known without milestones.
        """
        if self.has_stopped(iteration):
            return 0.0
        begun = [i for i in self.steps if i <= iteration]
        if begun:
            return self.steps[max(begun)]
        falls = bisect_right(milestones, iteration) if falls is None else falls
        return self.value * self.step_factor**falls
