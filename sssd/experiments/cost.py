"""What a training step of one configuration costs beside another's."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

from sssd.data import training_loader
from sssd.engine.step import TrainingStep
from sssd.fitting import prepare
from sssd.recipes import Config

ROUNDS = 12


def step_seconds(configs: Mapping[str, Config], rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of a training step of each configuration, loading included.

    A step is forward, backward and optimiser, after distillation has started.

    Args:
        configs: configurations of the same data and batch, by name.
        rounds: timed steps of each.
    """
    steps = {name: _Step(config) for name, config in configs.items()}
    return in_turn(steps, rounds, next(iter(steps.values())).device)


def in_turn(
    steps: Mapping[str, Callable[[], None]], rounds: int, device: torch.device
) -> dict[str, float]:
    """Median seconds of each of some calls, taken in turns.

    In turns, so that whatever else the machine does falls on all of them alike.

    Args:
        steps: what is timed, by name.
        rounds: timed calls of each; one more warms up.
        device: where they run.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 1):
        for name, step in steps.items():
            begin = _now(device)
            step()
            seconds[name].append(_now(device) - begin)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


class _Step:
    """One training step of a configuration, to be repeated."""

    def __init__(self, config: Config) -> None:
        method, train_set, _ = prepare(config)
        method.watches_gradients = False  # as in every step that is not logged
        self.step = TrainingStep(method, config.engine, config.schedule)
        self.device = self.step.device
        self.batches = training_loader(
            train_set, config.engine.part_size(), seed=0, transform=config.data.transform()
        )
        self.iteration = config.schedule.iterations - 1

    def __call__(self) -> None:
        self.step(self.batches, self.iteration)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
