"""The training loop, top to bottom."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sssd.commands import to_resume
from sssd.data import DetectionDataset, training_loader
from sssd.data.loader import Transform
from sssd.detectors import Detector
from sssd.engine import distributed
from sssd.engine.best import Best, BestWeights
from sssd.engine.determinism import deterministic
from sssd.engine.files import RunError
from sssd.engine.inference import Evaluation, evaluate_detector
from sssd.engine.interrupt import StopSignals
from sssd.engine.log import MetricsFile, ProgressLog, evaluation_of
from sssd.engine.loggers import Logger, Loggers
from sssd.engine.memory import is_out_of_memory, memory_in_use
from sssd.engine.record import by_flag
from sssd.engine.resume import identity, restore
from sssd.engine.runs import plain_model
from sssd.engine.settings import EngineConfig
from sssd.engine.state import (
    load_latest,
    random_state,
    restore_random_state,
    save_checkpoint,
)
from sssd.engine.step import TrainingStep, numbers_of
from sssd.engine.trouble import diverged, out_of_memory
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
        loggers: who else is told the metrics: see `sssd.engine.loggers`.
        metadata: what `best.safetensors` says of the detector.

    Attributes:
        done: steps that have been made.
        numbers: the 12 COCO numbers of the newest evaluation; None before the first.
        evaluation: that evaluation; None where another process made it, which was then stopped.
        best: the evaluation with the highest AP, whose weights are kept.
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
        loggers: Iterable[Logger] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.method, self.folder, self.config, self.schedule = method, folder, config, schedule
        self.train_set, self.validation_set, self.transform = train_set, validation_set, transform
        self.part_size = config.part_size(distributed.world_size())
        self.train_step = TrainingStep(method, config, schedule)
        self.average = None
        if config.ema_decay is not None:
            update = get_ema_multi_avg_fn(config.ema_decay)
            self.average = AveragedModel(method.detector, multi_avg_fn=update, use_buffers=True)

        parts = {"method": method, "optimizer": self.train_step.optimizer, "average": self.average,
                 "scaler": self.train_step.scaler}  # fmt: skip
        self.parts: dict[str, Any] = {name: p for name, p in parts.items() if p is not None}
        self.identity = identity(method, train_set, validation_set, config, others or {})
        saved = distributed.from_first(lambda: load_latest(folder))
        self.done = restore(saved, self.parts, self.identity) if saved else 0
        if self.done > schedule.iterations:
            raise RunError(
                f"{schedule.iterations} iterations are asked for (--schedule.iterations or "
                f"--schedule.epochs), but the run has already done {self.done}; ask for more"
            )
        self.random = saved["random"][distributed.rank()] if saved else None
        self.best_weights = BestWeights(folder, self.done, metadata or {})
        self.evaluate_every = config.evaluation_interval(schedule.iterations, len(validation_set))
        self.console, self.loggers = console or distributed.console(), loggers
        self.progress = ProgressLog(
            self.console,
            schedule.iterations,
            self.done,
            self.evaluations_left,
            config.evaluation_cost(len(validation_set)),
        )
        self.metrics: MetricsFile | None = None
        self._logged, self._logged_at = self.done, 0.0
        self.numbers: dict[str, float] | None = None
        self.evaluation: Evaluation | None = None
        self.signal: int | None = None

    def run(self) -> None:
        """Trains to the end, until a signal says to stop, or until AP has not risen for long.

        Whatever ends it, the last whole step is saved, if one process alone trains.

        Raises:
            RunError: a loss that is not finite, too little memory, or a disk that is full.
            DataError: an image that cannot be read.
            WorkerKilled: the system killed a process that loads images.
        """
        batches = self._begin()
        with (
            deterministic(self.config.deterministic),
            StopSignals() as stop,
            self.progress,
            batches,
            closing(self.metrics) if self.metrics else nullcontext(),
        ):
            try:
                self._train(batches, stop)
            except RunError:  # it says itself how to go on, and from where
                raise
            except Exception as error:
                is_memory = is_out_of_memory(error)
                if is_memory:
                    error.__traceback__ = None  # it holds what the step had made
                saved = self._rescue()
                if is_memory:
                    raise RunError(self._out_of_memory(str(error))) from None
                if saved:
                    self.console.print(
                        f"an error ended the run; {to_resume(self.folder)} goes on after iteration "
                        f"{self.done}",
                        soft_wrap=True,
                    )
                raise
        if self.is_out_of_patience and self.done < self.schedule.iterations:
            self.console.print(
                f"stopped after iteration {self.done}: the last {self.best_weights.since} "
                f"evaluations were no better than iteration {self.best.iteration} "
                f"(--engine.patience {self.config.patience})",
                soft_wrap=True,
            )

    def _train(self, batches: Iterator[Any], stop: StopSignals) -> None:
        if self.done > 0 and self.due(self.evaluate_every) and self.numbers is None:
            self.evaluate()  # the run was killed before it had
        while self.done < self.schedule.iterations and not self.is_out_of_patience:
            self.step(batches)
            # All processes stop at the same step.
            self.signal = distributed.largest(stop.received or 0) or None
            evaluates = self.due(self.evaluate_every)
            if self.signal or evaluates or self.due(self.config.checkpoint_every):
                self.save()  # before an evaluation, which may outlast who stops the run
            if self.signal:
                break
            if evaluates:
                self.evaluate()

    def step(self, batches: Iterator[Any]) -> None:
        """Makes one training step, and logs it when that is due."""
        self.method.watches_gradients = self.due(self.config.log_every, self.done + 1)
        results = self.train_step(batches, self.done)
        if self.average is not None:
            self.average.update_parameters(self.method.detector)
        self.random = random_state(self.train_step.device)
        self.done += 1  # last: from here on the step is whole
        self.progress.advance(self.done)
        if self.due(self.config.log_every):
            self.log(results)

    def due(self, every: int, done: int | None = None) -> bool:
        """Whether what happens every so many steps happens after the newest one."""
        done = self.done if done is None else done
        return done == self.schedule.iterations or (every > 0 and done % every == 0)

    def evaluations_left(self, done: int) -> int:
        """How many evaluations come after some steps."""
        every, total = self.evaluate_every or self.schedule.iterations, self.schedule.iterations
        return -(-total // every) - done // every if done < total else 0

    @property
    def best(self) -> Best:
        """The evaluation with the highest AP so far; there must have been one."""
        assert self.best_weights.best is not None
        return self.best_weights.best

    @property
    def is_out_of_patience(self) -> bool:
        """Whether AP has not risen for as many evaluations as the settings allow."""
        patience = self.config.patience
        return patience is not None and self.best_weights.since >= patience

    def log(self, results: Sequence[StepResult]) -> None:
        """Tells of a step, by its mean over the processes."""
        row: dict[str, Any] = {"iteration": self.done} | distributed.mean(numbers_of(results))
        images = (self.done - self._logged) * self.config.batch_size
        row["learning_rate"] = self.train_step.learning_rate
        row["images_per_second"] = images / (time.monotonic() - self._logged_at)
        row["memory_gb"] = memory_in_use(self.train_step.device)
        bad = {name: value for name, value in row.items() if not math.isfinite(value)}
        if bad and not self.train_step.overflows_for_now:
            raise self._diverged(str(bad))
        if not bad:
            self._write(row)
            self.progress.report(row)
        self._logged, self._logged_at = self.done, time.monotonic()

    def save(self) -> None:
        """Writes a checkpoint."""
        for name, parameter in self.method.named_parameters():
            if not parameter.isfinite().all():
                raise self._diverged(f"{name} is not finite")
        random = distributed.gather(self.random)
        if distributed.is_first():
            state = {name: part.state_dict() for name, part in self.parts.items()}
            state |= {"iteration": self.done, "random": random, "identity": self.identity}
            save_checkpoint(self.folder, self.done, state)

    def evaluate(self) -> None:
        """Computes the 12 COCO numbers of what has been learnt so far, and keeps the best."""
        begin, patience = time.monotonic(), self.config.patience
        may_end = patience is not None and self.best_weights.since + 1 >= patience
        last = may_end or self.done == self.schedule.iterations
        self.evaluation = evaluate_detector(
            self.detector,
            self.validation_set,
            self.part_size,
            workers=self.config.workers,
            engine="pycocotools" if last else self.config.evaluate_with,
            teacher=self.method.teacher,
        )
        self.numbers = self.evaluation.numbers
        self.best_weights.offer(self.done, self.numbers, plain_model(self.detector))
        self._write({"iteration": self.done, **self.numbers})
        seconds = time.monotonic() - begin
        self._logged_at += seconds  # no part of the speed of training
        scores = self.best_weights.beside(self.numbers["AP"])
        self.progress.evaluated(self.done, scores, seconds)

    @property
    def detector(self) -> Detector:
        """What is trained; the moving average of its weights where one is kept."""
        return self.method.detector if self.average is None else cast(Detector, self.average.module)

    def _begin(self) -> Any:
        """Opens the folder's metrics; gives the stream of batches, after those that were seen."""
        config, begin, device = self.config, self.done, self.train_step.device
        if distributed.is_first():
            settings = by_flag(self.schedule, "--schedule.") | by_flag(config, "--engine.")
            loggers = Loggers(
                config.loggers, self.loggers, self.folder, begin, settings | self.identity
            )
            self.metrics = MetricsFile(self.folder, begin, loggers)
        self.numbers = distributed.from_first(lambda: evaluation_of(self.folder, begin))
        if self.numbers is not None:
            self.progress.evaluated(begin, self.best_weights.beside(self.numbers["AP"]))
        batches = training_loader(
            self.train_set,
            self.part_size,
            config.seed,
            config.workers,
            start=begin * config.accumulate,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            transform=self.transform,
        )
        if self.random is not None:  # after the loader exists: making it may draw random numbers
            restore_random_state(self.random, device)
        else:  # whatever the method's own weights took, and on each rank other numbers
            torch.manual_seed(config.seed + distributed.rank())
        self.random = random_state(device)
        self._logged, self._logged_at = begin, time.monotonic()
        return batches

    def _write(self, row: dict[str, Any]) -> None:
        if self.metrics is not None:
            self.metrics.write(row)

    def _rescue(self) -> bool:
        """Saves what the last whole step has left, after an error; says whether it could.

        Other processes may wait for this one's gradients: several of them save nothing here.
        """
        self.train_step.optimizer.zero_grad(set_to_none=True)
        whole = self.train_step.begun <= self.done > 0 and distributed.world_size() == 1
        if whole:
            try:
                self.save()
            except Exception:  # weights that are not finite, a full disk, a device that is gone:
                return False  # the error that led here is the one to tell
        return whole

    def _out_of_memory(self, error: str) -> str:
        return out_of_memory(
            error, self.done, self.folder, self.config, self.identity, self.train_step.device
        )

    def _diverged(self, what: str) -> RunError:
        scaled = self.train_step.scaler.is_enabled()
        return RunError(diverged(what, self.done, self.folder, self.config, scaled))
