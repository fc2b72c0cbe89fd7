"""The training loop, top to bottom."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sssd.data import DetectionDataset, training_loader
from sssd.data.loader import Transform
from sssd.detectors import Detector
from sssd.engine import distributed
from sssd.engine.compiled import compiled
from sssd.engine.determinism import deterministic
from sssd.engine.distributed import choose_device, is_first, world_size
from sssd.engine.inference import evaluate_detector
from sssd.engine.interrupt import StopSignals
from sssd.engine.log import MetricsFile, ProgressLog, read_metrics
from sssd.engine.resume import identity, restore
from sssd.engine.settings import EngineConfig
from sssd.engine.state import (
    RunError,
    checkpoints,
    load_latest,
    random_state,
    restore_random_state,
    save_checkpoint,
)
from sssd.methods import Method, StepResult
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
    others: Mapping[str, str] | None = None,
    begun: Callable[[int], None] = lambda iteration: None,
) -> Outcome:
    """Trains a method's detector, from the newest checkpoint in `run` if there is one.

    Every process that torchrun started calls this; the first one alone reads and writes `run`.

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
        others: further settings by name, which a run that goes on must share.
        begun: called by the first process with the iteration that the run goes on from, once that
            is certain and before anything is written.

    Raises:
        RunError: a loss that is not finite, a disk that is full, a checkpoint of another run.
        WorkerKilled: the system killed a process that loads images.
        ValueError: a batch that the processes can not share equally.
    """
    console = console or distributed.console()
    part_size = config.part_size(world_size())
    device = choose_device(config.device)
    memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
    method.to(device).to(memory_format=memory_format).train()
    optimizer = build_optimizer(method, config, schedule)
    average = None
    if config.ema_decay is not None:
        update = get_ema_multi_avg_fn(config.ema_decay)
        average = AveragedModel(method.detector, multi_avg_fn=update, use_buffers=True)
    parts: dict[str, Any] = {"method": method, "optimizer": optimizer}
    if average is not None:
        parts["average"] = average

    saved = distributed.from_first(lambda: load_latest(run))
    shared = identity(method, train_set, validation_set, config, others or {})
    begin = restore(saved, parts, shared) if saved else 0
    if begin > schedule.iterations:
        raise RunError(
            f"--schedule.iterations is {schedule.iterations}, and the run has made {begin} already"
        )
    # Computed anew: a run that goes on may have another schedule from there.
    scheduler = LambdaLR(optimizer, schedule.factor, last_epoch=begin - 1)
    if is_first():
        begun(begin)
    model = distributed.with_shared_gradients(method)
    batches = training_loader(
        train_set,
        part_size,
        config.seed,
        config.workers,
        start=begin * config.accumulate,
        rank=distributed.rank(),
        world_size=world_size(),
        transform=transform,
    )
    if saved:  # after the loader exists: making it may draw random numbers
        restore_random_state(saved["random"][distributed.rank()], device)
    else:  # whatever the method's own weights took, and on each rank other numbers
        torch.manual_seed(config.seed + distributed.rank())

    done = begin

    def due(every: int) -> bool:
        return done == schedule.iterations or (every > 0 and done % every == 0)

    def save() -> None:
        _require_finite_weights(method, done, config, run)
        random = distributed.gather(random_state(device))
        if is_first():
            state = {name: part.state_dict() for name, part in parts.items()}
            state |= {"iteration": done, "random": random, "identity": shared}
            save_checkpoint(run, done, state)

    def write(row: dict[str, Any]) -> None:
        if metrics is not None:
            metrics.write(row)

    def evaluate() -> dict[str, float]:
        last = done == schedule.iterations
        engine = "pycocotools" if last else config.evaluate_with
        numbers = evaluate_detector(trained(), validation_set, config, engine, method.teacher)
        write({"iteration": done, **numbers})
        return numbers

    def trained() -> Detector:
        return method.detector if average is None else cast(Detector, average.module)

    metrics = MetricsFile(run, begin, config.tensorboard) if is_first() else None
    progress = ProgressLog(console, schedule.iterations, begin)
    log_start, log_iteration = time.monotonic(), begin
    stopped = 0
    fast = compiled(method.detector.backbone, config.compile_backbone)
    with deterministic(config.deterministic), fast, StopSignals() as stop, progress, batches:
        numbers = distributed.from_first(lambda: _evaluation_of(run, begin))
        if saved and due(config.evaluate_every) and numbers is None:  # it was killed meanwhile
            numbers = evaluate()
        for iteration in range(begin, schedule.iterations):
            done = iteration + 1  # when this step is
            method.watches_gradients = due(config.log_every)
            optimizer.zero_grad(set_to_none=True)
            results = []
            for part in range(config.accumulate):
                images, targets = next(batches)
                images = [_to(image, device) for image in images]
                targets = [{k: target[k] for k in ("boxes", "labels")} for target in targets]
                last = part == config.accumulate - 1
                with nullcontext() if last else distributed.own_gradients(model):
                    with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
                        result = model(images, targets, iteration)
                    losses = torch.stack([value.float() for value in result.losses.values()])
                    (losses.sum() / config.accumulate).backward()
                results.append(result)
            _let_rest(method, iteration)
            _clip(method, config)
            learning_rate = scheduler.get_last_lr()[-1]
            optimizer.step()
            scheduler.step()
            if average is not None:
                average.update_parameters(method.detector)

            progress.advance(done)
            if due(config.log_every):
                row: dict[str, Any] = {"iteration": done} | distributed.mean(_numbers(results))
                elapsed = time.monotonic() - log_start
                row["learning_rate"] = learning_rate
                row["images_per_second"] = (done - log_iteration) * config.batch_size / elapsed
                _require_finite(row, config, run)
                write(row)
                progress.report(row)
                log_start, log_iteration = time.monotonic(), done
            stopped = distributed.largest(stop.received or 0)  # all stop at the same step
            if stopped or due(config.checkpoint_every):
                save()  # before an evaluation, which may take long
            if stopped:
                break
            if due(config.evaluate_every):
                before = time.monotonic()
                numbers = evaluate()
                log_start += time.monotonic() - before  # no part of the speed of training
    if metrics is not None:
        metrics.close()
    if stopped:
        return Outcome(trained(), None, stopped)
    return Outcome(trained(), numbers, None)


def build_optimizer(
    method: Method, config: EngineConfig, schedule: ScheduleConfig
) -> torch.optim.Optimizer:
    """Optimizer over everything that is trained, at the learning rate of the batch."""
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


def _let_rest(method: Method, iteration: int) -> None:
    """Takes the gradients of what is not trained in a step: see `Method.resting`."""
    for part in method.resting(iteration):
        part.zero_grad(set_to_none=True)


def _to(image: Tensor, device: torch.device) -> Tensor:
    """The image on the device; the copy is waited for only out of memory that is not pinned."""
    return image if device.type == "cpu" else image.pin_memory().to(device, non_blocking=True)


def _clip(method: nn.Module, config: EngineConfig) -> None:
    if config.clip_value is not None:
        nn.utils.clip_grad_value_(method.parameters(), config.clip_value)
    if config.clip_norm is not None:
        nn.utils.clip_grad_norm_(method.parameters(), config.clip_norm)


def _numbers(results: Sequence[StepResult]) -> dict[str, float]:
    """Losses and metrics of a step on this process: means over the parts of its batch."""
    parts = []
    for losses, metrics in results:
        by_name = {f"loss/{name}": float(value.detach()) for name, value in losses.items()}
        total = {"loss": sum(by_name.values())}
        parts.append(total | by_name | {name: float(value) for name, value in metrics.items()})
    return {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}


def _evaluation_of(run: Path, iteration: int) -> dict[str, float] | None:
    """The numbers of an iteration that the run has evaluated already."""
    for row in read_metrics(run):
        if row["iteration"] == iteration and "AP" in row:
            return {name: value for name, value in row.items() if name != "iteration"}
    return None


def _require_finite(row: dict[str, Any], config: EngineConfig, run: Path) -> None:
    bad = {name: value for name, value in row.items() if not math.isfinite(value)}
    if bad:
        raise _diverged(row["iteration"], str(bad), config, run)


def _require_finite_weights(
    method: Method, iteration: int, config: EngineConfig, run: Path
) -> None:
    for name, parameter in method.named_parameters():
        if not parameter.isfinite().all():
            raise _diverged(iteration, f"{name} is not finite", config, run)


def _diverged(iteration: int, what: str, config: EngineConfig, run: Path) -> RunError:
    again = "start again" + (
        f" with --resume --out {run}: the last checkpoint is from before"
        if checkpoints(run)
        else ": there is no checkpoint from before"
    )
    return RunError(
        f"training diverged at or before iteration {iteration}: {what}. Lower "
        "--schedule.learning-rate, lengthen --schedule.warmup or clip the gradient "
        f"(--engine.clip-norm; it is {config.clip_norm}), and {again}."
    )
