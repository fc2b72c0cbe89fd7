"""From what a command line asks for to the runs of a plan, and their report."""

import argparse
import dataclasses
import math
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from pathlib import Path

import torch
from rich.console import Console

from sssd.commands import FAILED, WRONG_USE, exit_on
from sssd.compare import plan as plans
from sssd.compare.arms import Arm, make_arms
from sssd.compare.cost import Cost, measure
from sssd.compare.plan import Plan
from sssd.compare.runner import Runner, planned_seconds
from sssd.data import DetectionDataset
from sssd.data.build import build_datasets
from sssd.engine.files import RunError
from sssd.engine.lock import alone_in

DRAWS = 500  # of the validation images
SHORTEST = 20  # per cent of the recipe's length: what a budget may leave of it


def compare(recipe: str, flags: list[str], chosen: argparse.Namespace, console: Console) -> int:
    """Runs a plan as far as it gets.

    Args:
        recipe: of `sssd.train`.
        flags: what all arms share.
        chosen: the command's own flags.
        console: where progress is told.

    Returns:
        The exit status; 1 if a run failed.
    """
    with exit_on(FAILED, RunError), ExitStack() as held:
        with exit_on(WRONG_USE, ValueError, OSError, ImportError, BrokenProcessPool):
            seconds = _budget(chosen)
            folder = chosen.out or Path("runs") / f"compare-{recipe.replace('/', '-')}"
            arms = {arm.name: arm for arm in make_arms(recipe, flags, chosen.arms)}
            first = next(iter(arms.values())).config
            gpus = _gpus(first.engine.device)
            jobs = _jobs(chosen.jobs, gpus)
            train_set, validation_set = build_datasets(first.data, console)
            plan = _plan(chosen, recipe, flags, arms, train_set, validation_set)
            held.enter_context(alone_in(folder, "sssd.compare"))
            plan = _settled(plan, arms, folder, jobs, seconds, console)
        plans.write(plan, folder)
        return _run(plan, arms, folder, validation_set, gpus, jobs, seconds, console)


def _run(
    plan: Plan,
    arms: dict[str, Arm],
    folder: Path,
    validation_set: DetectionDataset,
    gpus: list[str] | None,
    jobs: int,
    seconds: float | None,
    console: Console,
) -> int:
    from sssd.compare.report import write_report  # matplotlib takes seconds

    runner = Runner(plan, arms, folder, validation_set, gpus, jobs, seconds, console)

    def report() -> None:
        write_report(plan, runner.results, runner.failed, folder)

    runner.run_all(report)
    report()
    if runner.out_of_time:
        console.print("no time left for another run; the same command resumes")
    told = (folder / "report.md").read_text(encoding="utf-8").partition("\n## ")[0]
    console.print(told, soft_wrap=True)
    console.print(f"{folder / 'report.html'}, report.md, results.json", soft_wrap=True)
    if runner.stopping:
        return 130
    return FAILED if runner.failed else 0


def _plan(
    chosen: argparse.Namespace,
    recipe: str,
    flags: list[str],
    arms: dict[str, Arm],
    train_set: DetectionDataset,
    validation_set: DetectionDataset,
) -> Plan:
    """The plan that a command line asks for, costs not yet measured."""
    equal = sorted(set(chosen.equal))
    verdicts = (len(arms) - 1) * len(equal)
    rule = plans.new_rule(chosen.threshold, chosen.seeds, chosen.error, verdicts)
    return Plan(
        recipe=recipe,
        flags=flags,
        arms={name: list(arm.flags) for name, arm in arms.items()},
        settings={name: arm.settings for name, arm in arms.items()},
        iterations=next(iter(arms.values())).config.schedule.iterations,
        seconds={},
        at_equal_time={},
        image_seconds={},
        seeds=list(chosen.seeds),
        error=chosen.error,
        rule=rule,
        draws=DRAWS,
        data=plans.data_of(train_set, validation_set),
        versions=plans.versions(),
        equal=equal,
    )


def _settled(
    asked: Plan,
    arms: dict[str, Arm],
    folder: Path,
    jobs: int,
    seconds: float | None,
    console: Console,
) -> Plan:
    """The plan in the folder, or a new one with measured costs."""
    plan = plans.read(folder)
    if plan is not None and plans.has_begun(folder):
        plans.refuse_changes(plan, asked, folder)
        plans.refuse_foreign(plan, folder)
        console.print(f"resuming {folder / plans.FILE}", soft_wrap=True)
    else:
        if plans.has_begun(folder):
            raise ValueError(f"--out: {folder} has runs but no {plans.FILE}; choose another folder")
        console.print("measuring the time of a training step of each arm", soft_wrap=True)
        costs = _measured(arms)
        plan = dataclasses.replace(
            asked,
            seconds={name: cost.step for name, cost in costs.items()},
            image_seconds={name: cost.image for name, cost in costs.items()},
        )
        plan = _fitted(plan, jobs, seconds, console)
        console.print(f"plan: {folder / plans.FILE}", soft_wrap=True)
    for line in _told(plan, jobs):
        console.print(line, soft_wrap=True)
    return plan


def _measured(arms: dict[str, Arm]) -> dict[str, Cost]:
    configs = {name: arm.config for name, arm in arms.items()}
    context = multiprocessing.get_context("spawn")  # what it holds of a GPU goes with it
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(measure, configs, os.getpid()).result()


def _fitted(plan: Plan, jobs: int, seconds: float | None, console: Console) -> Plan:
    """The plan at the length of which three seeds fit into a budget."""
    asked = plan.iterations
    for percent in range(100, SHORTEST - 1, -5):
        length = max(1, round(asked * percent / 100))
        plan = dataclasses.replace(
            plan,
            iterations=length,
            at_equal_time=plans.equal_time(plan.seconds, length),
        )
        if seconds is None or _first_look_seconds(plan, jobs) <= seconds:
            break
    else:
        assert seconds is not None  # without a budget the asked length is taken
        least = math.ceil(_first_look_seconds(plan, jobs) / 60)
        raise ValueError(
            f"--minutes {seconds / 60:g} leaves no room for three seeds of these arms, even at "
            f"{SHORTEST} % of {asked} iterations: give {least} minutes or more, fewer arms, or "
            "fewer --schedule.iterations"
        )
    if plan.iterations < asked:
        console.print(
            f"three seeds of {asked} iterations do not fit into the time: every run is shortened "
            f"to {plan.iterations}, its milestones too. A short training may have a different "
            "winner than a long one",
            style="yellow",
            soft_wrap=True,
        )
    return plan


def _first_look_seconds(plan: Plan, jobs: int) -> float:
    seeds = plan.seeds[: plan.rule.looks[0]]
    runs = [run for seed in seeds for run in plan.runs(seed)]
    longest = max(planned_seconds(plan, run) for run in runs)
    total = sum(planned_seconds(plan, run) for run in runs)
    return max(longest, total / jobs) + longest / 2 * (jobs > 1)


def _told(plan: Plan, jobs: int) -> list[str]:
    """What is said of a plan before its first run."""
    unit = plan.seconds[plan.baseline]
    lines = [
        f"{name}: {plan.iterations} iterations, {plan.seconds[name]:.3g} s a step "
        f"({plan.seconds[name] / unit:.2f}x)"
        + (
            f"; at equal time {plan.baseline} has {plan.at_equal_time[name]}"
            if ("time" in plan.equal and name in plan.others)
            else ""
        )
        for name in plan.arms
    ]
    hours = sum(planned_seconds(plan, run) for run in plan.all_runs()) / 3600
    lines.append(
        f"{' to '.join(dict.fromkeys((str(plan.rule.looks[0]), str(len(plan.seeds)))))} seeds, "
        f"threshold {plan.rule.threshold:g} AP, "
        f"error {plan.error:.0%}; {_first_look_seconds(plan, jobs) / 3600:.1f} h to the first "
        f"look, at most {hours / jobs:.1f} h"
    )
    warning = plans.image_warning(plan.data["val"]["images"], plan.rule.threshold)
    return [*lines, *([f"note: {warning}"] if warning else [])]


def _budget(chosen: argparse.Namespace) -> float | None:
    for flag, unit in (("hours", 3600), ("minutes", 60)):
        value = getattr(chosen, flag)
        if value is not None:
            if not 0 < value < float("inf"):
                raise ValueError(f"--{flag} is {value:g}; it must be greater than 0")
            return float(value * unit)
    return None


def _gpus(device: str) -> list[str] | None:
    """What CUDA_VISIBLE_DEVICES is for each job; None where training is on the CPU."""
    if device == "cpu" or not torch.cuda.is_available():
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    if ":" in device:  # cuda:1
        raise ValueError(f"--engine.device is {device}: set CUDA_VISIBLE_DEVICES instead")
    return names


def _jobs(asked: int | None, gpus: list[str] | None) -> int:
    cores = len(os.sched_getaffinity(0))
    most = cores if gpus is None else len(gpus)
    jobs = most if asked is None else asked
    if not 1 <= jobs <= most:
        what = f"{cores} cores, one per run" if gpus is None else f"{most} GPUs, one per run"
        raise ValueError(f"--jobs is {jobs}, but there are only {what}")
    return jobs
