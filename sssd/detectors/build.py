"""From settings to a detector."""

from collections.abc import Sequence
from typing import get_args

from rich.console import Console
from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet

from sssd.detectors.backbones import IMAGENET, build_backbone
from sssd.detectors.protocol import Detector
from sssd.detectors.settings import BackboneName, DetectorConfig, DetectorName
from sssd.detectors.start import start
from sssd.detectors.torchvision import (
    FasterRCNNDetector,
    FCOSDetector,
    RetinaNetDetector,
    TorchvisionDetector,
)
from sssd.detectors.transform import AnyShapeTransform


def build_detector(
    config: DetectorConfig,
    num_classes: int,
    classes: Sequence[str] | None = None,
    console: Console | None = None,
    *,
    load: bool = True,
) -> Detector:
    """Builds a detector for `num_classes` object classes, labels 0 .. num_classes - 1.

    Args:
        config: its settings.
        num_classes: number of classes.
        classes: their names, by which `config.start_from` keeps those that it knows.
        console: where to tell which these are.
        load: False: the network alone, whose weights somebody else loads.

    Raises:
        ValueError: settings or weights that do not fit.
        OSError: weights that cannot be downloaded or read.
    """
    if config.start_from is not None and config.weights not in (*IMAGENET, None):
        raise ValueError(
            f"--detector.weights {config.weights} would be overwritten by --detector.start-from "
            f"{config.start_from}; leave one of them out"
        )
    detector = _build(config, num_classes, load)
    detector.model.transform = AnyShapeTransform(detector.model.transform)
    if config.start_from is not None and load:
        line = start(detector.model, config, num_classes, classes)
        if console is not None:
            console.print(line, soft_wrap=True)
    return detector


def _build(config: DetectorConfig, num_classes: int, load: bool) -> TorchvisionDetector:
    backbone = build_backbone(
        config.backbone,
        config.weights,
        config.width,
        finest_level=2 if config.name == "fasterrcnn" else 3,
        frozen_stages=config.frozen_stages,
        p6_from=config.p6_from,
        load=load and config.start_from is None,
    )
    mean, std = normalisation(config.backbone)
    sizes = {
        "min_size": config.min_size,
        "max_size": config.max_size,
        "image_mean": mean,
        "image_std": std,
    }
    if config.name == "fcos":
        # 0.05 as the other two have it: torchvision's 0.2 would hide what evaluation counts.
        fcos = FCOS(backbone, num_classes, score_thresh=0.05, **sizes)
        # A box's sides are ReLUs, torchvision's of numbers around 0: a side that the first steps
        # push below 0 everywhere never has a gradient again. Ours start a stride from the centre.
        nn.init.ones_(fcos.head.regression_head.bbox_reg.bias)
        return FCOSDetector(fcos, num_classes)
    if config.name == "retinanet":
        return RetinaNetDetector(RetinaNet(backbone, num_classes, **sizes), num_classes)
    if config.name == "fasterrcnn":
        return FasterRCNNDetector(FasterRCNN(backbone, num_classes + 1, **sizes), num_classes)
    raise ValueError(f"there is no detector {config.name!r}; there are {get_args(DetectorName)}")


def normalisation(backbone: BackboneName) -> tuple[list[float], list[float]]:
    """Mean and standard deviation, of pixels in [0, 1], that the backbone was trained with."""
    if backbone == "efficientnet_lite0":
        return [127 / 255] * 3, [128 / 255] * 3
    return [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
