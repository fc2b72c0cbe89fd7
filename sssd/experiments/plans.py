"""What is compared: data and detector (a profile), and the variants that are run on them."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sssd.engine.state import write_atomically
from sssd.experiments.cost import step_seconds
from sssd.methods import FusionConfig
from sssd.recipes import RECIPES, Config, stretched

Variants = dict[str, Config]


def bccd() -> Config:
    """FCOS, EfficientNet-Lite0, 256 px, on 205 pictures of blood cells (BCCD); 87 to evaluate."""
    folder = Path(os.environ.get("SSSD_DATA", "../shared/data")) / "bccd" / "annotations"
    config = stretched(RECIPES["small"](), 300)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(
            config.data, train=folder / "instances_train.json", val=folder / "instances_val.json"
        ),
        detector=dataclasses.replace(config.detector, min_size=(256,)),
        engine=dataclasses.replace(config.engine, checkpoint_every=50, workers=0),
    )


def digits() -> Config:
    """The demo's detector on its handwritten digits; nothing to download."""
    config = RECIPES["demo"]()
    return dataclasses.replace(
        config, engine=dataclasses.replace(config.engine, checkpoint_every=50)
    )


PROFILES: dict[str, Callable[[], Config]] = {"bccd": bccd, "digits": digits}


def methods(base: Config, folder: Path) -> Variants:
    """Plain, LGD, and SSSD with a fixed and a stepwise coefficient; all else equal."""
    fixed = {"coefficient": dataclasses.replace(base.method.coefficient, step_factor=1.0)}
    return {
        "plain": changed(base, name="plain"),
        "LGD": changed(base, name="lgd", fusion=FusionConfig("relation"), **fixed),
        "SSSD, fixed": changed(base, **fixed),
        "SSSD, stepwise": changed(base),
    }


def methods_at_equal_time(base: Config, folder: Path) -> Variants:
    """The methods again, each for as many iterations as the slowest one's time allows."""
    variants = methods(base, folder)
    path = folder / "seconds_a_step.json"
    if not path.exists():  # measured once: the runs must not change when the experiment goes on
        text = json.dumps(step_seconds(variants), indent=2) + "\n"
        write_atomically(path, lambda file: file.write(text.encode()))
    seconds = json.loads(path.read_text())
    slowest = max(seconds.values())
    return {
        name: stretched(config, round(config.schedule.iterations * slowest / seconds[name]))
        for name, config in variants.items()
    }


def ablation(base: Config, folder: Path) -> Variants:
    """SSSD, stepwise, with one choice changed at a time; and what plain gains by other rates."""
    coefficient, schedule = base.method.coefficient, base.schedule
    variants = {"SSSD, stepwise": base}
    for value in (0.0, 0.1, 0.3, 3.0, 10.0):
        label = f"lambda {value:g}" if value else "no distance, K_e through the head only"
        variants[label] = changed(
            base, coefficient=dataclasses.replace(coefficient, value=value or 1e-9)
        )
    start = dataclasses.replace(coefficient, start=0)
    variants |= {
        "distilled from the first iteration": changed(base, coefficient=start),
        "relation fusion": changed(base, fusion=FusionConfig("relation")),
        "K_e detached from K": changed(base, fusion=FusionConfig("heatmap", detach=True)),
        "no adapter": changed(base, adapter=False),
        "over cells": changed(base, over="cells"),
        "instance norm": changed(base, normalize=True),
        "root of each row": changed(base, root="row"),
        "no root": changed(base, root="none"),
        "temperature 4": changed(base, temperature=4.0),
        "K_e every 2nd iteration": changed(base, teacher_every=2),
    }
    for factor in (0.5, 2.0):
        rate = dataclasses.replace(schedule, learning_rate=factor * schedule.learning_rate)
        plain = changed(base, name="plain")
        variants[f"plain, learning rate x {factor:g}"] = dataclasses.replace(plain, schedule=rate)
    return variants


EXPERIMENTS: dict[str, Callable[[Config, Path], Variants]] = {
    "methods": methods,
    "methods-at-equal-time": methods_at_equal_time,
    "ablation": ablation,
}


def changed(config: Config, **settings: Any) -> Config:
    """A configuration with other settings of the method."""
    return dataclasses.replace(config, method=dataclasses.replace(config.method, **settings))
