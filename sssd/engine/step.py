"""One training step: batch -> losses -> backward -> clip -> optimizer."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from sssd.detectors import Targets
from sssd.engine.device import autocast_dtype
from sssd.engine.distributed import choose_device, own_gradients, with_shared_gradients
from sssd.engine.settings import EngineConfig
from sssd.methods import Method, StepResult
from sssd.schedules import ScheduleConfig


class TrainingStep:
    """What the loop, the measurements of cost and the benches call for a step.

    Learning rate and lambda are functions of the iteration. In fp16 a step whose gradients
    overflow, on any process, moves no weights, on none; it is an iteration like the others.

    Args:
        method: what is trained; it is moved to the device of the settings.
        config: settings of the loop.
        schedule: the learning rate's.

    Attributes:
        method: the same, on its device and in training mode.
        optimizer: of everything that is trained.
        scaler: of the loss in fp16; does nothing else.
        device: where the step is computed.
        dtype: what autocast computes in; None without it.
        begun: steps that have begun to move the weights; one that ran out of memory may not have
            moved all.
        overflowed: whether the newest step has moved none.

    Raises:
        ValueError: a device that is not there, or a precision that it has not.
    """

    def __init__(self, method: Method, config: EngineConfig, schedule: ScheduleConfig) -> None:
        self.config, self.schedule = config, schedule
        self.device = choose_device(config.device)
        if self.device.type == "cuda":  # what names no device, as pinned memory, is to use no other
            torch.cuda.set_device(self.device)
        self.dtype = autocast_dtype(config.precision, self.device)
        self.method = method.to(self.device).to(memory_format=config.memory_format).train()
        self.optimizer = build_optimizer(method, config, schedule)
        scaled = self.dtype == torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scaled)
        self.begun, self.overflowed = 0, False
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
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.schedule.factor(iteration)
        self.optimizer.zero_grad(set_to_none=True)
        results = []
        for part in range(self.config.accumulate):
            images, targets = next(batches)
            last = part == self.config.accumulate - 1
            with nullcontext() if last else own_gradients(self._model):
                results.append(self._backward(images, targets, iteration))
        for resting in self.method.resting(iteration):
            resting.zero_grad(set_to_none=True)
        self.scaler.unscale_(self.optimizer)
        self._clip()
        self.begun = iteration + 1
        before = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.overflowed = self.scaler.get_scale() < before
        return results

    @property
    def overflows_for_now(self) -> bool:
        """Whether fp16 explains that the newest step is not finite: the scale can still fall."""
        return self.overflowed and self.scaler.get_scale() >= 1

    @property
    def learning_rate(self) -> float:
        """That of the newest step; a backbone may have a fraction of it."""
        return float(self.optimizer.param_groups[-1]["lr"])

    def _backward(self, images: Sequence[Tensor], targets: Targets, iteration: int) -> StepResult:
        images = [_to(image, self.device) for image in images]
        targets = [{name: target[name] for name in ("boxes", "labels")} for target in targets]
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            result = self._model(images, targets, iteration)
        losses = torch.stack([value.float() for value in result.losses.values()])
        self.scaler.scale(losses.sum() / self.config.accumulate).backward()
        if self.scaler.is_enabled():
            scale = self.scaler.get_scale()
            for name in [n for n in result.metrics if n.startswith("gradient/")]:
                result.metrics[name] /= scale  # measured on the way down
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
        {"params": part, "lr": own, "initial_lr": own}
        for part, own in zip(parts, rates, strict=True)
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    return torch.optim.SGD(groups, momentum=0.9, weight_decay=config.weight_decay)


def numbers_of(results: Sequence[StepResult]) -> dict[str, float]:
    """Losses and metrics of a step on this process: means over the parts of its batch."""
    parts = []
    for losses, metrics in results:
        by_name = {f"loss/{name}": float(value.detach()) for name, value in losses.items()}
        total = {"loss": sum(by_name.values())}
        parts.append(total | by_name | {name: float(value) for name, value in metrics.items()})
    return {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}


def _to(image: Tensor, device: torch.device) -> Tensor:
    """The image on the device; the copy is waited for only out of memory that is not pinned."""
    return image if device.type == "cpu" else image.pin_memory().to(device, non_blocking=True)
