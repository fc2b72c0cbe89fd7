"""One training step: batch -> losses -> backward -> clip -> optimizer."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from sssd.detectors import Targets
from sssd.engine.distributed import choose_device, own_gradients, with_shared_gradients
from sssd.engine.settings import EngineConfig
from sssd.methods import Method, StepResult
from sssd.schedules import ScheduleConfig


class TrainingStep:
    """What the loop, the measurements of cost and the benches call for a step.

    Args:
        method: what is trained; it is moved to the device of the settings.
        config: settings of the loop.
        schedule: for the learning rate that the optimizer begins with.

    Attributes:
        method: the same, on its device and in training mode.
        optimizer: of everything that is trained.
        device: where the step is computed.

    Raises:
        ValueError: a device that is not there.
    """

    def __init__(self, method: Method, config: EngineConfig, schedule: ScheduleConfig) -> None:
        self.config = config
        self.device = choose_device(config.device)
        self.method = method.to(self.device).to(memory_format=config.memory_format).train()
        self.optimizer = build_optimizer(method, config, schedule)
        self._model = with_shared_gradients(method)

    def __call__(
        self, batches: Iterator[tuple[Sequence[Tensor], Targets]], iteration: int
    ) -> list[StepResult]:
        """Moves the weights once.

        Args:
            batches: images (3, H, W) and their targets, as `training_loader` gives them; one is
                taken for each of `--engine.accumulate` parts.
            iteration: steps taken before this one.

        Returns:
            The losses and metrics of each part, on this process.
        """
        self.optimizer.zero_grad(set_to_none=True)
        results = []
        for part in range(self.config.accumulate):
            images, targets = next(batches)
            last = part == self.config.accumulate - 1
            with nullcontext() if last else own_gradients(self._model):
                results.append(self._backward(images, targets, iteration))
        for resting in self.method.resting(iteration):
            resting.zero_grad(set_to_none=True)
        self._clip()
        self.optimizer.step()
        return results

    def _backward(self, images: Sequence[Tensor], targets: Targets, iteration: int) -> StepResult:
        images = [_to(image, self.device) for image in images]
        targets = [{name: target[name] for name in ("boxes", "labels")} for target in targets]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16):
            result = self._model(images, targets, iteration)
        losses = torch.stack([value.float() for value in result.losses.values()])
        (losses.sum() / self.config.accumulate).backward()
        return result

    def _clip(self) -> None:
        if self.config.clip_value is not None:
            nn.utils.clip_grad_value_(self.method.parameters(), self.config.clip_value)
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.method.parameters(), self.config.clip_norm)


def build_optimizer(
    method: Method, config: EngineConfig, schedule: ScheduleConfig
) -> torch.optim.Optimizer:
    """Optimizer of everything that is trained, at the learning rate of the batch."""
    rate = schedule.scaled_learning_rate(config.batch_size)
    backbone = {id(p) for p in method.detector.backbone.parameters()}
    trained = [p for p in method.parameters() if p.requires_grad]
    rates = rate * config.backbone_factor, rate
    parts = [p for p in trained if id(p) in backbone], [p for p in trained if id(p) not in backbone]
    groups = [
        {"params": part, "lr": own, "initial_lr": own}  # as a scheduler that goes on wants it
        for part, own in zip(parts, rates, strict=True)
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    return torch.optim.SGD(groups, momentum=0.9, weight_decay=config.weight_decay)


def _to(image: Tensor, device: torch.device) -> Tensor:
    """The image on the device; the copy is waited for only out of memory that is not pinned."""
    return image if device.type == "cpu" else image.pin_memory().to(device, non_blocking=True)
