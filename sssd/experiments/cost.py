"""What a training step of one configuration costs beside another's."""

import statistics
import time
from collections.abc import Mapping

import torch
from rich.console import Console

from sssd.data import training_loader, training_transform
from sssd.engine.loop import build_optimizer, choose_device
from sssd.recipes import Config
from sssd.train import prepare

ROUNDS = 12


def step_seconds(configs: Mapping[str, Config], rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of a training step of each configuration, taken in turns.

    In turns, so that whatever else the machine does falls on all of them alike. A step is forward,
    backward and optimiser, after distillation has started; loading is not in it.

    Args:
        configs: configurations of the same data and batch, by name.
        rounds: timed steps of each; two more warm up.
    """
    steps = {name: _Step(config) for name, config in configs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in configs}
    for _ in range(rounds + 2):
        for name, step in steps.items():
            seconds[name].append(step())
    return {name: statistics.median(values[2:]) for name, values in seconds.items()}


class _Step:
    """One training step of a configuration, to be repeated."""

    def __init__(self, config: Config) -> None:
        self.method, train_set, _ = prepare(config, Console(quiet=True))
        device = choose_device(config.engine.device)
        memory_format = (
            torch.channels_last if config.engine.channels_last else torch.contiguous_format
        )
        self.method.to(device).to(memory_format=memory_format).train()
        self.optimizer = build_optimizer(self.method, config.engine, config.schedule)
        transform = training_transform(config.data.flip, config.data.photometric, config.data.scale)
        self.batches = training_loader(
            train_set, config.engine.batch_size, seed=0, workers=0, start=0, transform=transform
        )
        self.device = device
        self.iteration = config.schedule.iterations - 1

    def __call__(self) -> float:
        images, targets = next(self.batches)
        images = [image.to(self.device) for image in images]
        targets = [
            {name: target[name].to(self.device) for name in ("boxes", "labels")}
            for target in targets
        ]
        begin = self._now()
        losses = self.method(images, targets, self.iteration).losses
        loss = torch.stack([value.float() for value in losses.values()]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return self._now() - begin

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
