"""What a training step of each arm costs, and an evaluated image."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch

from sssd.data import DetectionDataset, evaluation_loader, training_loader
from sssd.data.build import build_datasets
from sssd.data.workers import end_with
from sssd.detectors import build_detector
from sssd.engine.inference import detect
from sssd.engine.step import TrainingStep
from sssd.methods import build_method
from sssd.recipes import Config

POSITIONS = 10  # places of the schedule at which a step is timed, ...
STEPS = 4  # ... so many steps in a row, for methods that do something every second one
IMAGES = 16


class Cost(NamedTuple):
    """Seconds.

    Attributes:
        step: of a training step, the mean over the schedule, loading included.
        image: of a validation image, the teacher's detections included.
    """

    step: float
    image: float


def measure(configs: Mapping[str, Config], parent: int) -> dict[str, Cost]:
    """Times the arms in turns, in a process of its own.

    On a CPU it is the processor time of one thread that counts, which other processes change
    little; on a GPU the clock.

    Args:
        configs: settings by name, all of the same data.
        parent: the process to end with.
    """
    end_with(parent)
    torch.set_num_threads(1)
    train_set, validation_set = build_datasets(next(iter(configs.values())).data)
    trainings = {n: _Training(c, train_set, validation_set) for n, c in configs.items()}
    device = next(iter(trainings.values())).device
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    calls = {name: one.step for name, one in trainings.items()}
    steps = in_turn(calls, POSITIONS * STEPS, device, clock)
    images = {n: _seconds(one.evaluate, device, clock) / one.images for n, one in trainings.items()}
    return {name: Cost(float(np.mean(s)), images[name]) for name, s in steps.items()}


def in_turn(
    calls: Mapping[str, Callable[[], None]],
    rounds: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of some calls, taken in turns: what else the machine does falls on all alike.

    Args:
        calls: what is timed, by name.
        rounds: timed calls of each; one more warms up.
        device: where they run.
        clock: counts the seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            seconds[name].append(_seconds(call, device, clock))
    return {name: values[1:] for name, values in seconds.items()}


class _Training:
    """The steps of one configuration at places spread over its schedule."""

    def __init__(
        self, config: Config, train_set: DetectionDataset, validation_set: DetectionDataset
    ) -> None:
        torch.manual_seed(0)
        detector = build_detector(config.detector, train_set.num_classes, train_set.classes)
        self.method = build_method(detector, config.method, config.schedule)
        self.method.watches_gradients = False  # as in every step that is not logged
        self.train_step = TrainingStep(self.method, config.engine, config.schedule)
        self.device = self.train_step.device
        transform, size = config.data.transform(), config.engine.part_size(1)
        self.batches = training_loader(
            train_set, size, seed=0, workers=0, start=0, transform=transform
        )
        self.images = min(IMAGES, len(validation_set))
        few = validation_set.subset(range(self.images))
        self.validation = evaluation_loader(few, config.engine.batch_size)
        self.places = iter(_places(config.schedule.iterations))

    def step(self) -> None:
        self.train_step(self.batches, next(self.places))

    def evaluate(self) -> None:
        with self.validation:
            detect(self.method.detector, self.validation, self.method.teacher)


def _places(iterations: int) -> list[int]:
    """The iterations that are timed, the first for warming up: the same parts of any schedule."""
    starts = (np.arange(POSITIONS) + np.random.default_rng(0).random(POSITIONS)) / POSITIONS
    first = np.minimum((starts * iterations).astype(int), max(0, iterations - STEPS))
    return [0, *(min(int(f) + i, iterations - 1) for f in first for i in range(STEPS))]


def _seconds(call: Callable[[], None], device: torch.device, clock: Callable[[], float]) -> float:
    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock()

    begin = now()
    call()
    return now() - begin
