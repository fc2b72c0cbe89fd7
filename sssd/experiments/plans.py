"""What is compared: data and detector (a profile), and the variants that are run on them."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sssd.engine.state import write_atomically
from sssd.experiments.cost import step_seconds
from sssd.methods import LGDConfig, PaintedConfig, PlainConfig, RelationConfig
from sssd.recipes import RECIPES, Config, stretched

Variants = dict[str, Config]


def bccd() -> Config:
    """FCOS, EfficientNet-Lite0, 256 px, on 205 pictures of blood cells (BCCD); 87 to evaluate."""
    folder = Path(os.environ.get("SSSD_DATA", "../shared/data")) / "bccd" / "annotations"
    if not folder.is_dir():
        raise ValueError(
            f"--profile bccd: there is no folder {folder}; put the blood cells' COCO files there, "
            "name another place of bccd/ by SSSD_DATA, or take --profile digits, which needs none"
        )
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


def bccd_long() -> Config:
    """Three times as long: 900 iterations, 18 epochs."""
    return stretched(bccd(), 900)


PROFILES: dict[str, Callable[[], Config]] = {
    "bccd": bccd,
    "bccd-long": bccd_long,
    "digits": digits,
}


def methods(base: Config, folder: Path) -> Variants:
    """Plain, LGD, and SSSD with a fixed and a stepwise coefficient; all else equal."""
    fixed = weighted(base, step_factor=1.0)
    return {
        "plain": plain(base),
        "LGD": lgd(fixed),
        "SSSD, fixed": fixed,
        "SSSD, stepwise": base,
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
    """SSSD, stepwise, with one choice changed at a time; LGD with SSSD's fusion; plain's rates."""
    variants = {
        "SSSD, stepwise": base,
        "no distance, K_e through the head only": weighted(base, value=1e-9),
        "lambda 10": weighted(base, value=10.0),
        "full adapter": changed(base, adapter="full"),
        "no adapter": changed(base, adapter="none"),
        "relation fusion": changed(base, fusion=RelationConfig()),
        "LGD, painted fusion": changed(
            lgd(weighted(base, step_factor=1.0)), fusion=PaintedConfig()
        ),
        "over cells": changed(base, over="cells"),
        "K_e every 2nd iteration": changed(base, teacher_every=2),
        "distilled from the first iteration": weighted(base, start=0),
        "lambda 3": weighted(base, value=3.0),
        "root of each row": changed(base, root="row"),
        "instance norm": changed(base, normalize=True),
        "no adapter, instance norm": changed(base, adapter="none", normalize=True),
        "temperature 4": changed(base, temperature=4.0),
        "no root": changed(base, root=None),
        "lambda 0.3": weighted(base, value=0.3),
    }
    for factor in (0.5, 2.0):
        rate = factor * base.schedule.learning_rate
        variants[f"plain, learning rate x {factor:g}"] = dataclasses.replace(
            plain(base),
            schedule=dataclasses.replace(base.schedule, learning_rate=rate),
        )
    return variants


EXPERIMENTS: dict[str, Callable[[Config, Path], Variants]] = {
    "methods": methods,
    "methods-at-equal-time": methods_at_equal_time,
    "ablation": ablation,
}


def plain(config: Config) -> Config:
    """The same detector alone."""
    return dataclasses.replace(config, method=PlainConfig())


def lgd(config: Config) -> Config:
    """LGD with a configuration's coefficient."""
    method: Any = config.method
    return dataclasses.replace(config, method=LGDConfig(coefficient=method.coefficient))


def changed(config: Config, **settings: Any) -> Config:
    """A configuration with other settings of the method."""
    return dataclasses.replace(config, method=dataclasses.replace(config.method, **settings))


def weighted(config: Config, **settings: Any) -> Config:
    """A configuration with other settings of the distillation coefficient."""
    method: Any = config.method
    return changed(config, coefficient=dataclasses.replace(method.coefficient, **settings))
