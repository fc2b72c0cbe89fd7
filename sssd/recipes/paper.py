"""Recipes for every row of the comparison in SSSD's paper, and twins of them for a CPU.

Each is named DETECTOR_BACKBONE_METHOD, for example `fcos_r101_lgd`; "_90k" and "_180k" tell another
length than the method's usual one. Numbers are of LGD (Zhang et al., AAAI 2022), LabelEnc (Hao et
al., ECCV 2020) and SSSD (Deng et al., ICIP 2023), and of the code of the first two: P6 comes from
C5 (LabelEnc's FCOS: from P5), the backbone starts from ImageNet weights V1, LabelEnc's step 1 adds
its 30k without distance to the 90k schedule and is always R-50, whatever step 2 trains. With
stepwise lambda the learning rate is 0 from iteration 170,000 on (SSSD, caption of Figure 2).

Where they are silent, or where rows must be comparable, it is our choice:

- sssd: fusion, adapter, stop-gradient on K_e, start and frozen backbone are LGD's, so that the two
  differ in the distance alone; lambda 75 weighs the mean over elements (see
  `MethodConfig.reduction`).
- stepwise: lambda doubles at the first milestone; the paper names the iteration alone.
- 90k: what LGD and SSSD state in iterations of 180k is halved.
- the values of the sweep over lambda.
- V1 is torchvision's; LGD and LabelEnc take MSRA's weights of the same networks.
- plain and LabelEnc have LGD's optimizer, clipping and image sizes, as in LGD's own comparison.
  LabelEnc's code has warm-up 500 from 1/3, no clipping and one short side: add
  `--schedule.warmup 500 --schedule.warmup-factor 0.3333 --engine.clip-value None
  --detector.min-size 800`. Its twice as large rate of biases, without decay, is not offered.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

from sssd.detectors import DetectorConfig
from sssd.detectors.backbones import BackboneName
from sssd.detectors.build import DetectorName
from sssd.engine.settings import EngineConfig
from sssd.methods import FusionConfig, MethodConfig
from sssd.recipes.config import Config, stretched
from sssd.schedules import CoefficientConfig, ScheduleConfig

Recipe = Callable[[], Config]

DETECTORS: tuple[DetectorName, ...] = ("retinanet", "fcos", "fasterrcnn")
BACKBONES: dict[str, BackboneName] = {"r50": "resnet50", "r101": "resnet101"}
LAMBDA = 75.0
SWEEP = (10.0, 25.0, 50.0, 100.0, 150.0)  # beside LAMBDA
TWIN_SHRINKS = 300  # iterations of the paper that make one of a twin
TWIN_BACKBONE = "lite0"


def detector_of(name: DetectorName, backbone: str) -> DetectorConfig:
    """Short side 640 to 800, long side up to 1333, as by default; P6 and weights the originals'."""
    return DetectorConfig(
        name=name,
        backbone=BACKBONES[backbone],
        weights="imagenet_v1",
        p6_from="p5" if name == "fasterrcnn" else "c5",
    )


def schedule_of(name: DetectorName, iterations: int) -> ScheduleConfig:
    """Milestones at 2/3 and 8/9; learning rate 0.01, and 0.02 for Faster R-CNN."""
    milestones = (round(iterations * 2 / 3), round(iterations * 8 / 9))
    rate = 0.02 if name == "fasterrcnn" else 0.01
    return ScheduleConfig(iterations=iterations, milestones=milestones, learning_rate=rate)


def fusion_of(name: DetectorName, backbone: str) -> FusionConfig:
    """LGD's choice for each detector."""
    context = name == "retinanet" or (name == "fcos" and backbone == "r101")
    return FusionConfig("relation", context=context, detach=name == "fasterrcnn")


def plain(name: DetectorName, backbone: str, iterations: int) -> Config:
    """The detector alone."""
    return Config(
        detector=detector_of(name, backbone),
        method=MethodConfig(name="plain"),
        schedule=schedule_of(name, iterations),
        engine=EngineConfig(clip_value=1.0),
    )


def guided(
    method: str, name: DetectorName, backbone: str, iterations: int, value: float, stepwise: bool
) -> Config:
    """LGD or SSSD: distillation starts at 1/6, the backbone is frozen for 1/9 of the iterations."""
    config = plain(name, backbone, iterations)
    steps = {config.schedule.milestones[0]: 2 * value} if stepwise else {}
    zero_from = iterations * 17 // 18 if stepwise else None
    return dataclasses.replace(
        config,
        schedule=dataclasses.replace(config.schedule, zero_from=zero_from),
        method=MethodConfig(
            name="lgd" if method == "lgd" else "sssd",
            coefficient=CoefficientConfig(value=value, steps=steps, start=iterations // 6),
            fusion=fusion_of(name, backbone),
            reduction="row" if method == "lgd" else "element",
            frozen_backbone=iterations // 9,
        ),
    )


def labelenc(step: int, name: DetectorName, backbone: str, iterations: int) -> Config:
    """LabelEnc: lambda 1 behind the 30k that step 1 adds, and up to step 2's last milestone."""
    config = plain(name, backbone, iterations)
    if name == "fcos":
        config = dataclasses.replace(
            config, detector=dataclasses.replace(config.detector, p6_from="p5")
        )
    schedule = config.schedule
    if step == 2:
        coefficient = CoefficientConfig(value=1.0, stop=schedule.milestones[-1])
        method = MethodConfig(name="labelenc_step2", coefficient=coefficient)
        return dataclasses.replace(config, method=method)
    added = 30_000
    schedule = dataclasses.replace(
        schedule,
        iterations=iterations + added,
        milestones=tuple(milestone + added for milestone in schedule.milestones),
    )
    coefficient = CoefficientConfig(value=1.0, start=added)
    method = MethodConfig(name="labelenc_step1", coefficient=coefficient)
    return dataclasses.replace(config, method=method, schedule=schedule)


def twin(recipe: Recipe) -> Config:
    """The same recipe at a size for two CPU cores.

    Backbone, width, images, batch and iterations are small; all else stays. Lambda too: over 64
    channels 75 of the elements' mean is 75 / 8 = 9.4 of the sum.
    """
    config = recipe()
    config = stretched(config, config.schedule.iterations // TWIN_SHRINKS)
    return dataclasses.replace(
        config,
        detector=dataclasses.replace(
            config.detector,
            backbone="efficientnet_lite0",
            weights="imagenet",
            width=64,
            min_size=(256, 288, 320),
            max_size=448,
        ),
        engine=dataclasses.replace(config.engine, batch_size=4),
    )


def _rows(name: DetectorName, backbone: str) -> dict[str, Recipe]:
    """Recipes of a detector and a backbone, by the rest of their names."""
    rows: dict[str, Recipe] = {}
    for suffix, length in (("", 180_000), ("_90k", 90_000)):
        rows[f"plain{suffix}"] = partial(plain, name, backbone, length)
        for method, value in (("lgd", 1.0), ("sssd", LAMBDA)):
            for stepwise in (False, True):
                row = f"{method}{'_stepwise' * stepwise}{suffix}"
                rows[row] = partial(guided, method, name, backbone, length, value, stepwise)
    if backbone == "r50":  # its encoder and head serve the step 2 of every backbone
        rows["labelenc_step1"] = partial(labelenc, 1, name, backbone, 90_000)
    rows["labelenc_step2"] = partial(labelenc, 2, name, backbone, 90_000)
    rows["labelenc_step2_180k"] = partial(labelenc, 2, name, backbone, 180_000)
    if (name, backbone) == ("retinanet", "r50"):
        for value in SWEEP:
            row = f"sssd_lambda{value:g}"
            rows[row] = partial(guided, "sssd", name, backbone, 180_000, value, False)
    return rows


PAPER: dict[str, Recipe] = {
    f"{name}_{backbone}_{row}": recipe
    for name in DETECTORS
    for backbone in BACKBONES
    for row, recipe in _rows(name, backbone).items()
}
TWINS: dict[str, Recipe] = {
    f"small/{name.replace('_r50_', f'_{TWIN_BACKBONE}_')}": partial(twin, recipe)
    for name, recipe in PAPER.items()
    if "_r50_" in name
}


def describe(config: Config) -> str:
    """One line that tells a recipe from the others."""
    method, schedule, coefficient = config.method, config.schedule, config.method.coefficient
    parts = [f"{config.detector.name} {config.detector.backbone}, {method.name}"]
    if method.name != "plain":
        values = [f"{v:g} from {i:,}" for i, v in coefficient.steps.items()]
        parts.append(", then ".join([f"lambda {coefficient.value:g}", *values]))
        if coefficient.step_factor != 1 and not values:
            parts[-1] += f", x {coefficient.step_factor:g} at each milestone"
        parts += [f"distilled from {coefficient.start:,}"] if coefficient.start else []
        parts += [f"until {coefficient.stop:,}"] if coefficient.stop is not None else []
    parts.append(f"{schedule.iterations:,} iterations of {config.engine.batch_size} images")
    return "; ".join(parts)
