"""The settings of a run, in one typed tree."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from sssd.data.build import DataConfig
from sssd.detectors import DetectorConfig
from sssd.engine.settings import EngineConfig
from sssd.methods import MethodConfig
from sssd.schedules import ScheduleConfig


@dataclass(frozen=True)
class Config:
    """Everything that a training run is made from."""

    data: DataConfig = field(default_factory=DataConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    out: Path | None = None
    """Folder of the run; runs/RECIPE-DATE-TIME by default."""

    resume: bool = False
    """Go on with the run in --out from its newest checkpoint, with its own settings; what is given
    besides is honoured, or refused where it would make another run."""


def without_effect(config: Config) -> dict[str, str]:
    """Beginnings of the flags that change nothing beside the other settings, and what would."""
    method, schedule = config.method, config.schedule
    needs = {
        "a --method.name other than plain": (method.name != "plain", ["--method.coefficient"]),
        "--method.name sssd or lgd": (
            method.name in ("sssd", "lgd"),
            ["--method.fusion", "--method.adapter", "--method.teacher-every",
             "--method.frozen-backbone"],
        ),
        "--method.name sssd": (
            method.name == "sssd",
            ["--method.over", "--method.temperature", "--method.root", "--method.reduction",
             "--method.levels", "--method.normalize"],
        ),
        "--method.name labelenc_step2": (
            method.name == "labelenc_step2", ["--method.step1-weights"]
        ),
        "--method.fusion.name relation": (
            method.fusion.name == "relation", ["--method.fusion.context"]
        ),
        "pretrained --detector.weights": (
            config.detector.weights is not None, ["--detector.frozen-stages"]
        ),
        "data of your own: the demo makes its own, the recipe small (python -m sssd.train small "
        "...) takes yours": (
            config.data.format != "demo", ["--data.train", "--data.val", "--data.on-bad-data"]
        ),
        "--engine.evaluate-every 1 or more": (
            config.engine.evaluate_every > 0, ["--engine.evaluate-with"]
        ),
        "--schedule.warmup 1 or more": (schedule.warmup > 0, ["--schedule.warmup-factor"]),
    }  # fmt: skip
    return {flag: need for need, (met, flags) in needs.items() if not met for flag in flags}


def stretched(config: Config, iterations: int) -> Config:
    """The same run in another number of iterations: all that happens at one moves along."""

    def at(iteration: int) -> int:
        return round(iteration * iterations / config.schedule.iterations)

    def at_if(iteration: int | None) -> int | None:
        return None if iteration is None else at(iteration)

    schedule, coefficient = config.schedule, config.method.coefficient
    return replace(
        config,
        schedule=replace(
            schedule,
            iterations=iterations,
            milestones=tuple(sorted(set(map(at, schedule.milestones)))),  # short runs join some
            warmup=at(schedule.warmup),
            zero_from=at_if(schedule.zero_from),
        ),
        method=replace(
            config.method,
            frozen_backbone=at(config.method.frozen_backbone),
            coefficient=replace(
                coefficient,
                steps={at(i): value for i, value in coefficient.steps.items()},
                start=at(coefficient.start),
                stop=at_if(coefficient.stop),
            ),
        ),
    )
