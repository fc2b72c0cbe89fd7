"""Runs of a plan in processes of their own, several at once."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from rich.console import Console

from sssd.compare import runs as files
from sssd.compare.arms import Arm
from sssd.compare.plan import Equal, Plan, PlannedRun
from sssd.compare.verdicts import is_open, verdict_on
from sssd.data import DetectionDataset
from sssd.data.workers import PR_SET_PDEATHSIG
from sssd.engine.files import RECORD

POLL = 0.2  # seconds
SLOWER = 1.2  # a run beside others, which share memory and disk, than one alone
STARTS = 20.0  # seconds until training and evaluation have begun
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass
class Job:
    """A run in progress.

    Attributes:
        run: which.
        arm: its settings.
        slot: place among the jobs, and the GPU.
        process: of its present command.
        began: when that began, on the monotonic clock.
    """

    run: PlannedRun
    arm: Arm
    slot: int
    process: subprocess.Popen[bytes]
    began: float


@dataclass
class Runner:
    """Runs what is missing of a plan, the seeds in order, until it is decided or time is up.

    Args:
        plan: what to run.
        arms: its arms as they were asked for.
        folder: of the plan.
        validation_set: what its runs are evaluated on.
        gpus: names of the GPUs for CUDA_VISIBLE_DEVICES, one a job; None on a CPU.
        jobs: runs at once.
        seconds: no run begins that would not end within so many; None: without end.
        console: for a line a run.
    """

    plan: Plan
    arms: Mapping[str, Arm]
    folder: Path
    validation_set: DetectionDataset
    gpus: Sequence[str] | None
    jobs: int
    seconds: float | None
    console: Console
    failed: dict[PlannedRun, str] = field(default_factory=dict)
    out_of_time: bool = False

    def __post_init__(self) -> None:
        """Reads what is there."""
        self.results = files.read_results(self.plan, self.folder)
        self.running: list[Job] = []
        self.begin = time.monotonic()
        self.stopping = 0
        self._pace: list[tuple[float, float]] = []  # (expected, needed) seconds of this session

    def run_all(self, on_result: Callable[[], None]) -> None:
        """Runs until nothing is left to do.

        Args:
            on_result: called whenever a run has ended well.
        """
        before = {n: signal.signal(n, self._stop) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            while True:
                while not self.stopping and len(self.running) < self.jobs:
                    run = self._next()
                    if run is None or not self._has_time(run):
                        break
                    self._start(run)
                if not self.running:
                    break
                time.sleep(POLL)
                for job in [job for job in self.running if job.process.poll() is not None]:
                    if self._advance(job):
                        on_result()
        finally:
            for job in self.running:  # left by an error: they save
                job.process.terminate()
            for number, handler in before.items():
                signal.signal(number, handler)

    def wanted(self) -> list[PlannedRun]:
        """The runs that the plan asks for as things stand, in order."""
        runs: list[PlannedRun] = []
        first = self.plan.rule.looks[0]
        broken = {run.arm for run in self.failed}
        for place, seed in enumerate(self.plan.seeds):
            comparisons = self.plan.comparisons
            if place >= first:
                if self.plan.baseline in broken:
                    break
                comparisons = [
                    (arm, equal)
                    for arm, equal in comparisons
                    if arm not in broken and is_open(self.plan, self.results, arm, equal)
                ]
            runs += self.plan.runs(seed, comparisons)
        return runs

    def remaining(self, upto_first_look: bool) -> float:
        """Expected seconds until the first look, or until the last seed."""
        runs = self.wanted()
        if upto_first_look:
            seeds = set(self.plan.seeds[: self.plan.rule.looks[0]])
            runs = [run for run in runs if run.seed in seeds]
        left = [run for run in runs if run not in self.results and run not in self.failed]
        began = {job.run: job.began for job in self.running}
        now = time.monotonic()
        total = 0.0
        for run in left:
            done = now - began[run] if run in began else 0.0
            total += max(0.0, self.expected(run) - done)
        return total / self.jobs

    def expected(self, run: PlannedRun) -> float:
        """Seconds that a run takes."""
        needed = sum(needed for _, needed in self._pace)
        pace = needed / sum(expected for expected, _ in self._pace) if self._pace else 1.0
        return pace * planned_seconds(self.plan, run)

    def _next(self) -> PlannedRun | None:
        busy = {job.run for job in self.running}
        for run in self.wanted():
            if run not in busy and run not in self.results and run not in self.failed:
                return run
        return None

    def _has_time(self, run: PlannedRun) -> bool:
        if self.seconds is None:
            return True
        left = self.begin + self.seconds - time.monotonic()
        self.out_of_time |= self.expected(run) > left
        return not self.out_of_time

    def _start(self, run: PlannedRun) -> None:
        path = run.path(self.folder)
        arm = self.plan.arm_of(run, self.arms)
        path.mkdir(parents=True, exist_ok=True)
        slots = {job.slot for job in self.running}
        slot = next(number for number in range(self.jobs) if number not in slots)
        if (path / RECORD).exists() and (files.checkpoints(path) or files.is_trained(path)):
            try:
                files.require_settings(self.plan, run, arm, path)
            except ValueError as error:
                self._fail(run, str(error))
                return
        command = (
            files.evaluation(path)
            if files.is_trained(path)
            else files.training(self.plan, run, arm, path)
        )
        process = self._process(command, path, slot)
        self.running.append(Job(run, arm, slot, process, time.monotonic()))

    def _process(self, command: list[str], path: Path, slot: int) -> subprocess.Popen[bytes]:
        environment = dict(os.environ)
        if self.gpus is None:
            environment |= dict.fromkeys(THREADS, "1") | {"CUDA_VISIBLE_DEVICES": ""}
        else:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[slot]
        with (path / files.LOG).open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C is passed on, once
                preexec_fn=_end_with_parent,
            )

    def _advance(self, job: Job) -> bool:
        """Continues after a command that has ended; whether the run has ended well."""
        path = job.run.path(self.folder)
        took = time.monotonic() - job.began
        files.add_wall_seconds(path, took)
        self.running.remove(job)
        status = job.process.returncode
        if self.stopping:
            return False
        if status != 0:
            self._fail(job.run, f"status {status}: {_last_words(path / files.LOG)}")
            return False
        if not (path / files.DETECTIONS).exists():
            process = self._process(files.evaluation(path), path, job.slot)
            self.running.append(Job(job.run, job.arm, job.slot, process, time.monotonic()))
            return False
        try:
            result = files.collect(self.plan, job.run, job.arm, path, self.validation_set)
        except (ValueError, KeyError, OSError) as error:
            self._fail(job.run, f"{type(error).__name__}: {error}")
            return False
        self.results[job.run] = result
        self._pace.append((planned_seconds(self.plan, job.run), files.wall_seconds(path)))
        self._tell(job.run)
        return True

    def _fail(self, run: PlannedRun, why: str) -> None:
        self.failed[run] = why
        self.console.print(
            f"{label_of(self.plan, run)} failed and is not counted: {why}",
            style="red",
            soft_wrap=True,
        )

    def _tell(self, run: PlannedRun) -> None:
        result = self.results[run]
        text = f"{label_of(self.plan, run)}: AP {100 * result['numbers']['AP']:.2f}"
        if "teacher/AP" in result["numbers"]:
            text += f", teacher {100 * result['numbers']['teacher/AP']:.1f}"
        text += f" in {_time(result['wall_seconds'])}"
        first, last = self.remaining(True), self.remaining(False)
        ahead = f"; {_time(first)} to the first look" if first else ""
        text += f"{ahead}; at most {_time(last)} to the end" if last else ""
        self.console.print(text, soft_wrap=True)
        for arm, equal in self.plan.comparisons:
            verdict = verdict_on(self.plan, self.results, arm, equal)
            if verdict.seeds >= self.plan.rule.looks[0] and run in self._of(arm, equal):
                self.console.print(
                    f"  {arm} over {self.plan.baseline} at equal {equal}, {verdict.seeds} "
                    f"seeds: {verdict.mean:+.2f} [{verdict.low:+.2f}, {verdict.high:+.2f}] "
                    f"{verdict.name}",
                    soft_wrap=True,
                )

    def _of(self, arm: str, equal: Equal) -> set[PlannedRun]:
        return {run for seed in self.plan.seeds for run in self.plan.pair(arm, seed, equal)}

    def _stop(self, number: int, frame: object) -> None:
        self.stopping += 1
        if self.stopping == 1:
            self.console.print("stopping: the runs save a checkpoint; the same command resumes")
        for job in self.running:
            job.process.send_signal(signal.SIGTERM if self.stopping == 1 else signal.SIGKILL)


def planned_seconds(plan: Plan, run: PlannedRun) -> float:
    """Seconds of a run by the costs that were measured: steps, evaluations, and two starts."""
    images = plan.data["val"]["images"] * plan.image_seconds[run.arm]
    work = run.iterations * plan.seconds[run.arm] + (files.ON_THE_WAY + 1) * images
    return SLOWER * work + STARTS


def label_of(plan: Plan, run: PlannedRun) -> str:
    """A run in words."""
    length = "" if run.iterations == plan.iterations else f", {run.iterations} iterations"
    return f"{run.arm}{length}, seed {run.seed}"


def _end_with_parent() -> None:
    """The run ends, and saves, with the command, however that ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or ["it printed nothing"])[-1][:600]


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
