"""The settings of a run, in one typed tree."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sssd.data.settings import DataConfig
from sssd.detectors import DetectorConfig
from sssd.engine.settings import EngineConfig
from sssd.methods import DistillingConfig, LabelGuidedConfig, MethodConfig, SSSDConfig
from sssd.schedules import ScheduleConfig


@dataclass(frozen=True)
class Config:
    """Everything that a training run is made from."""

    data: DataConfig = field(default_factory=DataConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    method: MethodConfig = field(default_factory=SSSDConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    out: Path | None = None
    """Folder of the run; by default runs/RECIPE-DATE-TIME."""

    resume: bool = False
    """Resume the run in --out from its newest checkpoint, with its own settings. Other flags
    override them, or are refused if they would make it a different run."""


def stretched(config: Config, iterations: int) -> Config:
    """The same run in another number of iterations: all that happens at one moves along."""

    def at(iteration: int) -> int:
        return round(iteration * iterations / config.schedule.iterations)

    def at_if(iteration: int | None) -> int | None:
        return None if iteration is None else at(iteration)

    schedule, method = config.schedule, config.method
    moved: dict[str, Any] = {}
    if isinstance(method, DistillingConfig):
        coefficient = method.coefficient
        moved["coefficient"] = replace(
            coefficient,
            steps={at(i): value for i, value in coefficient.steps.items()},
            start=at(coefficient.start),
            stop=at_if(coefficient.stop),
        )
    if isinstance(method, LabelGuidedConfig):
        moved["frozen_backbone"] = at(method.frozen_backbone)
    return replace(
        config,
        schedule=replace(
            schedule,
            iterations=iterations,
            milestones=tuple(sorted(set(map(at, schedule.milestones)))),  # short runs join some
            warmup=at(schedule.warmup),
            zero_from=at_if(schedule.zero_from),
        ),
        method=replace(method, **moved),
    )


def describe(config: Config) -> str:
    """One line that tells a recipe from the others."""
    method = config.method
    parts = [f"{config.detector.name} {config.detector.backbone}, {method.name}"]
    if isinstance(method, DistillingConfig):
        coefficient = method.coefficient
        start = f" from {coefficient.start:,}" if coefficient.start else ""
        weights = [f"lambda {coefficient.value:g}{start}"]
        weights += [f"{value:g} from {i:,}" for i, value in coefficient.steps.items()]
        if coefficient.step_factor != 1 and not coefficient.steps:
            weights += [f"x {coefficient.step_factor:g} at each milestone"]
        stop = f" until {coefficient.stop:,}" if coefficient.stop is not None else ""
        parts.append(", ".join(weights) + stop)
    length = f"{config.schedule.iterations:,} iterations of {config.engine.batch_size} images"
    return "; ".join([*parts, length])
