"""The comparison in SSSD's paper: one recipe with parameters, and the names of its rows.

A row is named DETECTOR_BACKBONE_METHOD, for example `fcos_r101_lgd`; "_90k" and "_180k" tell
another length than the method's usual one. Numbers are of LGD (Zhang et al., AAAI 2022), LabelEnc
(Hao et al., ECCV 2020) and SSSD (Deng et al., ICIP 2023), and of the code of the first two: P6
comes from C5 (LabelEnc's FCOS: from P5), the backbone starts from ImageNet weights V1, LabelEnc's
step 1 adds its 30k without distance to the 90k schedule and is always R-50, whatever step 2 trains.
With stepwise lambda the learning rate is 0 from iteration 170,000 on (SSSD, caption of Figure 2).

Where they are silent, or where rows must be comparable, it is our choice:

- sssd: fusion, adapter, stop-gradient on K_e, start and frozen backbone are LGD's, so that the two
  differ in the distance alone; lambda 75 weighs the mean over elements (`SSSDConfig.elements`).
- stepwise: lambda doubles at the first milestone; the paper names the iteration alone.
- 90k: what LGD and SSSD state in iterations of 180k is halved.
- the values of the sweep over lambda.
- mixed precision on GPUs (`--engine.precision fp32` is theirs).
- V1 is torchvision's, of ResNets with the stride in the 3x3 convolutions; LGD and LabelEnc take
  MSRA's, which have it in the 1x1 ones.
- the detectors' own losses are torchvision's (docs/originals.md).
- plain and LabelEnc have LGD's optimizer, clipping and image sizes, as in LGD's own comparison.
  LabelEnc's code has warm-up 500 from 1/3, no clipping and one short side: add
  `--schedule.warmup 500 --schedule.warmup-factor 0.3333 --engine.clip-value None
  --detector.min-size 800`. Its twice as large rate of biases, without decay, is not offered.
"""

import re
from typing import Any, cast

from sssd.detectors import DetectorConfig
from sssd.detectors.settings import BackboneName, DetectorName
from sssd.engine.settings import EngineConfig
from sssd.methods import KINDS, MethodConfig, RelationConfig
from sssd.methods.settings import MethodName
from sssd.recipes.config import Config
from sssd.schedules import CoefficientConfig, ScheduleConfig

SWEEP = (10, 25, 50, 100, 150)  # values of lambda beside the paper's 75
ADDED = 30_000  # iterations without distance before the usual ones: LabelEnc's step 1
NAME = re.compile(
    r"(?P<detector>retinanet|fcos|fasterrcnn)_r(?P<depth>50|101)_"
    r"(?P<method>plain|lgd|sssd|labelenc_step[12])"
    r"(?P<stepwise>_stepwise)?(_lambda(?P<value>\d+))?(_(?P<thousands>90|180)k)?"
)


def paper(
    detector: DetectorName,
    backbone: BackboneName,
    method: MethodName,
    iterations: int,
    *,
    value: float | None = None,
    stepwise: bool = False,
) -> Config:
    """A row of the comparison.

    Args:
        detector: its name.
        backbone: "resnet50" or "resnet101".
        method: its name.
        iterations: length of the schedule, to which LabelEnc's step 1 adds its own.
        value: lambda; by default the method's, 75 for sssd and 1 for the others.
        stepwise: lgd, sssd: double lambda at the first milestone, and end with a rate of 0.

    Raises:
        ValueError: no such method, or one that has no stepwise lambda.
    """
    milestones = round(iterations * 2 / 3), round(iterations * 8 / 9)
    added = ADDED if method == "labelenc_step1" else 0
    if value is None:
        value = 75.0 if method == "sssd" else 1.0
    guided: dict[str, Any] = {
        "coefficient": CoefficientConfig(
            value=value,
            steps={milestones[0]: 2 * value} if stepwise else {},
            start=iterations // 6,
        ),
        "fusion": RelationConfig(  # LGD's choice for each detector
            context=detector == "retinanet" or (detector == "fcos" and backbone == "resnet101"),
            detach=detector == "fasterrcnn",
        ),
        "adapter": "full",
        "frozen_backbone": iterations // 9,
    }
    options: dict[MethodName, dict[str, Any]] = {
        "plain": {},
        "lgd": guided,
        "sssd": {**guided, "elements": "mean"},
        "labelenc_step1": {"coefficient": CoefficientConfig(value=value, start=added)},
        "labelenc_step2": {"coefficient": CoefficientConfig(value=value, stop=milestones[-1])},
    }
    if method not in options:
        raise ValueError(f"method is {method!r}; it must be one of {', '.join(options)}")
    if stepwise and method not in ("lgd", "sssd"):
        raise ValueError(f"stepwise: {method} has a fixed lambda; only lgd and sssd can double it")
    from_p5 = detector == "fasterrcnn" or (detector == "fcos" and method.startswith("labelenc"))
    return Config(
        # Short side 640 to 800, long side up to 1333, by default.
        detector=DetectorConfig(
            name=detector,
            backbone=backbone,
            weights="imagenet_v1",
            p6_from="p5" if from_p5 else "c5",
        ),
        method=cast(MethodConfig, KINDS[MethodConfig][method](**options[method])),
        schedule=ScheduleConfig(
            iterations=iterations + added,
            milestones=tuple(milestone + added for milestone in milestones),
            learning_rate=0.02 if detector == "fasterrcnn" else 0.01,
            zero_from=iterations * 17 // 18 if stepwise else None,
        ),
        engine=EngineConfig(clip_value=1.0),
    )


def row(name: str) -> Config:
    """The settings of a row, by its name."""
    found = NAME.fullmatch(name)
    assert found is not None
    method = cast(MethodName, found["method"])
    usual = 90 if method.startswith("labelenc") else 180
    return paper(
        cast(DetectorName, found["detector"]),
        cast(BackboneName, f"resnet{found['depth']}"),
        method,
        1000 * int(found["thousands"] or usual),
        value=None if found["value"] is None else float(found["value"]),
        stepwise=found["stepwise"] is not None,
    )


def _rows(stage: str) -> list[str]:
    """What is compared with one detector and backbone."""
    methods = ["plain", "lgd", "lgd_stepwise", "sssd", "sssd_stepwise"]
    rows = [*methods, *(f"{method}_90k" for method in methods)]
    if stage.endswith("r50"):  # its encoder and head serve the step 2 of every backbone
        rows += ["labelenc_step1"]
    rows += ["labelenc_step2", "labelenc_step2_180k"]
    if stage == "retinanet_r50":
        rows += [f"sssd_lambda{value}" for value in SWEEP]
    return rows


STAGES = [
    f"{name}_{depth}" for name in ("retinanet", "fcos", "fasterrcnn") for depth in ("r50", "r101")
]
PAPER = [f"{stage}_{rest}" for stage in STAGES for rest in _rows(stage)]
"""Names of all rows."""
