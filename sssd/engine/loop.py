"""The training loop, top to bottom."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sssd.data import DetectionDataset, training_loader
from sssd.data.loader import Transform
from sssd.detectors import Detector
from sssd.engine import distributed
from sssd.engine.determinism import deterministic
from sssd.engine.inference import Evaluation, evaluate_detector
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
from sssd.engine.step import TrainingStep
from sssd.methods import Method, StepResult
from sssd.schedules import ScheduleConfig


class Trainer:
    """Trains a method's detector, from the newest checkpoint in a folder if there is one.

    Every process that torchrun started has one; the first process alone reads and writes the
    folder. Nothing is written before `run`.

    Args:
        method: what is trained.
        train_set: images and boxes to learn from.
        validation_set: images and boxes to evaluate on, at the end and every
            `config.evaluate_every` iterations.
        folder: of checkpoints and metrics.
        config: settings of the loop.
        schedule: length and learning rate.
        transform: augmentation of (image, target).
        console: where progress goes.
        others: further settings by name, which a run that goes on must share.

    Attributes:
        done: steps that have been made.
        numbers: the 12 COCO numbers of the newest evaluation; None before the first.
        evaluation: that evaluation; None where another process made it, which was then stopped.
        signal: the signal that has stopped the run; None if it went to its end.

    Raises:
        RunError: a checkpoint of another run.
        ValueError: a batch that the processes cannot share equally, or a device that is not there.
    """

    def __init__(
        self,
        method: Method,
        train_set: DetectionDataset,
        validation_set: DetectionDataset,
        folder: Path,
        config: EngineConfig,
        schedule: ScheduleConfig,
        *,
        transform: Transform | None = None,
        console: Console | None = None,
        others: Mapping[str, str] | None = None,
    ) -> None:
        self.method, self.folder, self.config, self.schedule = method, folder, config, schedule
        self.train_set, self.validation_set, self.transform = train_set, validation_set, transform
        self.part_size = config.part_size(distributed.world_size())
        self.train_step = TrainingStep(method, config, schedule)
        self.average = None
        if config.ema_decay is not None:
            update = get_ema_multi_avg_fn(config.ema_decay)
            self.average = AveragedModel(method.detector, multi_avg_fn=update, use_buffers=True)

        parts = {"method": method, "optimizer": self.train_step.optimizer, "average": self.average}
        self.parts: dict[str, Any] = {name: p for name, p in parts.items() if p is not None}
        self.identity = identity(method, train_set, validation_set, config, others or {})
        saved = distributed.from_first(lambda: load_latest(folder))
        self.done = restore(saved, self.parts, self.identity) if saved else 0
        if self.done > schedule.iterations:
            raise RunError(
                f"--schedule.iterations is {schedule.iterations}, and the run has made {self.done} "
                "already"
            )
        self.random = saved["random"][distributed.rank()] if saved else None
        # Computed anew: a run that goes on may have another schedule from there.
        self.scheduler = LambdaLR(
            self.train_step.optimizer, schedule.factor, last_epoch=self.done - 1
        )
        self.metrics: MetricsFile | None = None
        self.progress = ProgressLog(
            console or distributed.console(), schedule.iterations, self.done
        )
        self.numbers: dict[str, float] | None = None
        self.evaluation: Evaluation | None = None
        self.signal: int | None = None

    def run(self) -> None:
        """Trains to the end, or until a signal says to stop.

        Raises:
            RunError: a loss that is not finite, or a disk that is full.
            DataError: an image that cannot be read.
            WorkerKilled: the system killed a process that loads images.
        """
        config, begin = self.config, self.done
        if distributed.is_first():
            self.metrics = MetricsFile(self.folder, begin, config.tensorboard)
        self.numbers = distributed.from_first(lambda: _evaluation_of(self.folder, begin))
        batches = self._start_loading()
        self._logged, self._logged_at = begin, time.monotonic()
        with deterministic(config.deterministic), StopSignals() as stop, self.progress, batches:
            if begin > 0 and self.due(config.evaluate_every) and self.numbers is None:
                self.evaluate()  # the run was killed before it had
            while self.done < self.schedule.iterations:
                self.step(batches)
                # All processes stop at the same step.
                self.signal = distributed.largest(stop.received or 0) or None
                if self.signal or self.due(config.checkpoint_every):
                    self.save()  # before an evaluation, which may take long
                if self.signal:
                    break
                if self.due(config.evaluate_every):
                    self.evaluate()
        if self.metrics is not None:
            self.metrics.close()

    def step(self, batches: Iterator[Any]) -> None:
        """Makes one training step, and logs it when that is due."""
        self.done += 1
        self.method.watches_gradients = self.due(self.config.log_every)
        learning_rate = float(self.scheduler.get_last_lr()[-1])
        results = self.train_step(batches, self.done - 1)
        self.scheduler.step()
        if self.average is not None:
            self.average.update_parameters(self.method.detector)
        self.progress.advance(self.done)
        if self.due(self.config.log_every):
            self.log(results, learning_rate)

    def due(self, every: int) -> bool:
        """Whether what happens every so many steps happens behind the newest one."""
        return self.done == self.schedule.iterations or (every > 0 and self.done % every == 0)

    def log(self, results: Sequence[StepResult], learning_rate: float) -> None:
        """Tells of a step, by its mean over the processes."""
        row: dict[str, Any] = {"iteration": self.done} | distributed.mean(_numbers(results))
        images = (self.done - self._logged) * self.config.batch_size
        row["learning_rate"] = learning_rate
        row["images_per_second"] = images / (time.monotonic() - self._logged_at)
        bad = {name: value for name, value in row.items() if not math.isfinite(value)}
        if bad:
            raise self._diverged(str(bad))
        self._write(row)
        self.progress.report(row)
        self._logged, self._logged_at = self.done, time.monotonic()

    def save(self) -> None:
        """Writes a checkpoint."""
        for name, parameter in self.method.named_parameters():
            if not parameter.isfinite().all():
                raise self._diverged(f"{name} is not finite")
        random = distributed.gather(random_state(self.train_step.device))
        if distributed.is_first():
            state = {name: part.state_dict() for name, part in self.parts.items()}
            state |= {"iteration": self.done, "random": random, "identity": self.identity}
            save_checkpoint(self.folder, self.done, state)

    def evaluate(self) -> None:
        """Computes the 12 COCO numbers of what has been learnt so far."""
        begin, last = time.monotonic(), self.done == self.schedule.iterations
        engine = "pycocotools" if last else self.config.evaluate_with
        self.evaluation = evaluate_detector(
            self.detector,
            self.validation_set,
            self.part_size,
            workers=self.config.workers,
            engine=engine,
            teacher=self.method.teacher,
        )
        self.numbers = self.evaluation.numbers
        self._write({"iteration": self.done, **self.numbers})
        self._logged_at += time.monotonic() - begin  # no part of the speed of training

    @property
    def detector(self) -> Detector:
        """What is trained; the moving average of its weights where one is kept."""
        return self.method.detector if self.average is None else cast(Detector, self.average.module)

    def _start_loading(self) -> Any:
        """The stream of batches, behind those that have been seen."""
        batches = training_loader(
            self.train_set,
            self.part_size,
            self.config.seed,
            self.config.workers,
            start=self.done * self.config.accumulate,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            transform=self.transform,
        )
        if self.random is not None:  # after the loader exists: making it may draw random numbers
            restore_random_state(self.random, self.train_step.device)
        else:  # whatever the method's own weights took, and on each rank other numbers
            torch.manual_seed(self.config.seed + distributed.rank())
        return batches

    def _write(self, row: dict[str, Any]) -> None:
        if self.metrics is not None:
            self.metrics.write(row)

    def _diverged(self, what: str) -> RunError:
        again = "start again" + (
            f" with --resume --out {self.folder}: the last checkpoint is from before"
            if checkpoints(self.folder)
            else ": there is no checkpoint from before"
        )
        return RunError(
            f"training diverged at or before iteration {self.done}: {what}. Lower "
            "--schedule.learning-rate, lengthen --schedule.warmup or clip the gradient "
            f"(--engine.clip-norm; it is {self.config.clip_norm}), and {again}."
        )


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
