"""The training loop, top to bottom."""

import math
import time
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sssd.data import DetectionDataset, evaluation_loader, training_loader
from sssd.data.loader import Transform
from sssd.detectors import Detector
from sssd.engine.evaluate import evaluate_detections, to_coco
from sssd.engine.inference import detect
from sssd.engine.interrupt import StopSignals
from sssd.engine.log import MetricsFile, ProgressLog
from sssd.engine.settings import EngineConfig
from sssd.engine.state import (
    RunError,
    load_latest,
    random_state,
    restore_random_state,
    save_checkpoint,
)
from sssd.methods import Method
from sssd.schedules import ScheduleConfig


class Outcome(NamedTuple):
    """How a run ended.

    Attributes:
        detector: what was trained; the moving average of its weights where one was kept.
        numbers: the 12 COCO numbers, or None when the run was interrupted.
        signal: the signal that interrupted it, or None.
    """

    detector: Detector
    numbers: dict[str, float] | None
    signal: int | None


def train(
    method: Method,
    train_set: DetectionDataset,
    validation_set: DetectionDataset,
    *,
    run: Path,
    config: EngineConfig,
    schedule: ScheduleConfig,
    transform: Transform | None = None,
    console: Console | None = None,
) -> Outcome:
    """Trains a method's detector, from the newest checkpoint in `run` if there is one.

    Args:
        method: what is trained.
        train_set: images and boxes to learn from.
        validation_set: images and boxes to evaluate on, at the end and every
            `config.evaluate_every` iterations.
        run: folder of checkpoints and metrics.
        config: settings of the loop.
        schedule: length and learning rate.
        transform: augmentation of (image, target).
        console: where progress goes.

    Raises:
        RunError: a loss that is not finite, a disk that is full, a checkpoint of other data.
    """
    console = console or Console()
    device = choose_device(config.device)
    memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
    method.to(device).to(memory_format=memory_format).train()
    optimizer = build_optimizer(method, config, schedule)
    scheduler = LambdaLR(
        optimizer, [lambda i: _backbone_factor(i, method, schedule), schedule.factor]
    )
    average = None
    if config.ema_decay is not None:
        update = get_ema_multi_avg_fn(config.ema_decay)
        average = AveragedModel(method.detector, multi_avg_fn=update, use_buffers=True)
    parts: dict[str, Any] = {"method": method, "optimizer": optimizer, "scheduler": scheduler}
    if average is not None:
        parts["average"] = average

    saved = load_latest(run)
    begin = _restore(saved, parts, train_set, config) if saved else 0
    batches = training_loader(
        train_set, config.batch_size, config.seed, config.workers, start=begin, transform=transform
    )
    if saved:  # after the loader exists: making it may draw random numbers
        restore_random_state(saved["random"])

    done = begin

    def due(every: int) -> bool:
        return done == schedule.iterations or (every > 0 and done % every == 0)

    def save() -> None:
        state = {name: part.state_dict() for name, part in parts.items()}
        state |= {"iteration": done, "random": random_state()}
        save_checkpoint(run, done, state | _identity(train_set, config))

    def evaluate() -> dict[str, float]:
        numbers = evaluate_detector(trained(), validation_set, config)
        metrics.write({"iteration": done, **numbers})
        return numbers

    def trained() -> Detector:
        return method.detector if average is None else cast(Detector, average.module)

    numbers: dict[str, float] | None = None
    metrics = MetricsFile(run, begin)
    progress = ProgressLog(console, schedule.iterations, begin)
    log_start, log_iteration = time.monotonic(), begin
    with StopSignals() as stop, progress:
        for iteration in range(begin, schedule.iterations):
            images, targets = next(batches)
            images = [image.to(device, non_blocking=True) for image in images]
            targets = [_to(target, device) for target in targets]
            with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
                result = method(images, targets, iteration)
            loss = torch.stack([value.float() for value in result.losses.values()]).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            _clip(method, config)
            learning_rate = scheduler.get_last_lr()[-1]
            optimizer.step()
            scheduler.step()
            if average is not None:
                average.update_parameters(method.detector)

            done = iteration + 1
            progress.advance(done)
            if due(config.log_every):
                elapsed = time.monotonic() - log_start
                row: dict[str, Any] = {"iteration": done, "loss": loss.item()}
                row |= {f"loss/{name}": value.item() for name, value in result.losses.items()}
                row |= {name: float(value) for name, value in result.metrics.items()}
                row["learning_rate"] = learning_rate
                row["images_per_second"] = (done - log_iteration) * config.batch_size / elapsed
                _require_finite(row, config)
                metrics.write(row)
                progress.report(row)
                log_start, log_iteration = time.monotonic(), done
            if stop.received:
                break
            if due(config.evaluate_every):
                numbers = evaluate()
            if due(config.checkpoint_every):
                save()
        if stop.received:
            save()
        elif numbers is None:  # the run had ended before
            numbers = evaluate()
    metrics.close()
    return Outcome(trained(), None if stop.received else numbers, stop.received)


def choose_device(name: str) -> torch.device:
    """The device that a name stands for; "auto" is a GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} is not usable here: {error}") from error
    return device


def build_optimizer(
    method: Method, config: EngineConfig, schedule: ScheduleConfig
) -> torch.optim.Optimizer:
    """Optimizer over everything that is trained, at the learning rate of the batch."""
    rate = schedule.scaled_learning_rate(config.batch_size)
    backbone = {id(p) for p in method.detector.backbone.parameters()}
    trained = [p for p in method.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) in backbone], "lr": rate * config.backbone_factor},
        {"params": [p for p in trained if id(p) not in backbone], "lr": rate},
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    return torch.optim.SGD(groups, momentum=0.9, weight_decay=config.weight_decay)


def _backbone_factor(iteration: int, method: Method, schedule: ScheduleConfig) -> float:
    """Zero while the backbone is frozen: weight decay would move it without any gradient."""
    return 0.0 if iteration < method.frozen_backbone else schedule.factor(iteration)


def evaluate_detector(
    detector: Detector, dataset: DetectionDataset, config: EngineConfig
) -> dict[str, float]:
    """The 12 COCO numbers of a detector on a dataset."""
    found = detect(detector, evaluation_loader(dataset, config.batch_size, config.workers))
    results = to_coco(found.keys(), found.values(), dataset.category_ids)
    return evaluate_detections(dataset.ground_truth(), results)


def _to(target: dict[str, Any], device: torch.device) -> dict[str, Tensor]:
    return {name: target[name].to(device, non_blocking=True) for name in ("boxes", "labels")}


def _clip(method: nn.Module, config: EngineConfig) -> None:
    if config.clip_value is not None:
        nn.utils.clip_grad_value_(method.parameters(), config.clip_value)
    if config.clip_norm is not None:
        nn.utils.clip_grad_norm_(method.parameters(), config.clip_norm)


def _require_finite(row: dict[str, Any], config: EngineConfig) -> None:
    bad = {name: value for name, value in row.items() if not math.isfinite(value)}
    if bad:
        raise RunError(
            f"training diverged at or before iteration {row['iteration']}: {bad}. Lower "
            "--schedule.learning-rate, lengthen --schedule.warmup or clip the gradient "
            f"(--engine.clip-norm; it is {config.clip_norm}), and start again with --resume: the "
            "last checkpoint is from before."
        )


def _identity(train_set: DetectionDataset, config: EngineConfig) -> dict[str, Any]:
    """What must be the same for a run to go on as if it had not stopped."""
    return {"data": train_set.fingerprint, "batch_size": config.batch_size, "seed": config.seed}


def _restore(
    saved: dict[str, Any], parts: dict[str, Any], train_set: DetectionDataset, config: EngineConfig
) -> int:
    for name, value in _identity(train_set, config).items():
        if saved[name] != value:
            raise RunError(
                f"the run can not be resumed: {name} is {value!r} now and was {saved[name]!r} "
                "when it was started. Give the same settings, or a new --out."
            )
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    return int(saved["iteration"])
