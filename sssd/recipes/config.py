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
    """Go on with the run in --out from its newest checkpoint."""


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
