"""Recipes: functions that return the settings of a run, for a person to read and to override."""

import dataclasses
from collections.abc import Callable
from functools import partial

from sssd.data.settings import DataConfig
from sssd.detectors import DetectorConfig
from sssd.engine.settings import EngineConfig
from sssd.methods import SSSDConfig
from sssd.recipes.config import Config
from sssd.recipes.paper import PAPER, row
from sssd.schedules import CoefficientConfig, ScheduleConfig


def demo() -> Config:
    """SSSD on handwritten digits: minutes on two CPU cores, nothing to download."""
    base = small()
    return dataclasses.replace(
        base,
        data=DataConfig(format="demo", flip=0.0),  # a mirrored digit is no digit
        detector=dataclasses.replace(base.detector, min_size=(160,), max_size=160),
        schedule=dataclasses.replace(
            base.schedule, iterations=400, milestones=(270, 350), learning_rate=4e-3
        ),
        engine=dataclasses.replace(  # an evaluation takes as long as 16 steps
            base.engine, batch_size=8, workers=0, evaluate_every=200
        ),
    )


def small() -> Config:
    """SSSD on your own data, small enough to train in minutes on two CPU cores."""
    return Config(
        data=DataConfig(mosaic=0.5),
        detector=DetectorConfig(
            name="fcos", backbone="efficientnet_lite0", width=64, min_size=(320,), max_size=448
        ),
        method=SSSDConfig(coefficient=CoefficientConfig(value=1.0, step_factor=2.0, start=100)),
        schedule=ScheduleConfig(
            iterations=350,
            learning_rate=8e-3,
            milestones=(240, 310),
            gamma=0.3,
            warmup=50,
            warmup_factor=0.05,
        ),
        engine=EngineConfig(
            batch_size=4,
            optimizer="adamw",
            backbone_factor=0.1,
            weight_decay=0.05,
            clip_value=None,
            clip_norm=5.0,
            ema_decay=0.99,
            channels_last=True,
        ),
    )


def coco() -> Config:
    """SSSD on COCO 2017 or any other data: RetinaNet R-50, 180k iterations, batch 16."""
    return Config(
        method=SSSDConfig(coefficient=CoefficientConfig(value=4.7, step_factor=2.0, start=30_000)),
    )


RECIPES: dict[str, Callable[[], Config]] = {
    **{recipe.__name__: recipe for recipe in (demo, small, coco)},
    **{name: partial(row, name) for name in PAPER},
}
DEFAULT_RECIPE = "demo"
SHORTLIST = ("demo", "small", "coco")  # what a newcomer is shown
