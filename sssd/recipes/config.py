"""The settings of a run, in one typed tree."""

from dataclasses import dataclass, field
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
