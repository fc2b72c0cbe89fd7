"""Settings of the data, which a command line shows: without torch, which takes seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from sssd.data.loader import Transform


@dataclass(frozen=True)
class DataConfig:
    """What is trained on, and how it is augmented."""

    format: Literal["coco", "voc", "yolo", "demo"] | None = None
    """Format of the files, by default known by their path; demo: handwritten digits on
    photographs, made on first use."""

    train: Path | None = None
    """What is trained on: a COCO json, a data.yaml, or a folder of COCO, VOC or YOLO files."""

    train_images: Path | None = None
    """Folder of its images; by default the usual place of the format (COCO:
    DIR/train2017 for DIR/annotations/instances_train2017.json)."""

    train_split: str = "train"
    """Which part of a folder or data.yaml; one that is not split is taken whole."""

    val: Path | None = None
    """What is evaluated on, in the same forms; it may be the same folder."""

    val_images: Path | None = None
    """Folder of its images; the same default."""

    val_split: str = "val"
    """Which part of a folder or data.yaml ("val" is valid/, too), such as test."""

    val_share: float | None = None
    """Without a validation set: the share of the training images, such as 0.2, that is held out for
    it. Which ones follows from their names."""

    pixel_range: tuple[float, float] | None = None
    """What is black and what is white in images of more than 8 bits (16-bit, float); by default 0
    and 65535 of 16 bits, and none of floats."""

    on_bad_data: Literal["raise", "drop"] = "raise"
    """What becomes of bad records (missing or truncated images, boxes without area, unknown
    categories, ...): raise names them and stops, drop trains without them."""

    flip: float = 0.5
    """Probability of a horizontal flip."""

    photometric: bool = False
    """Change brightness, contrast, saturation and hue."""

    scale: float = 1.0
    """Largest random change of object size, at least 1."""

    mosaic: float = 0.0
    """Probability that a training sample is made of four images; the last tenth of the training
    has none."""

    def __post_init__(self) -> None:
        """Refuses numbers out of their range."""
        if self.val_share is not None:
            self._check_share(self.val_share)
        if not 0 <= self.flip <= 1:
            raise ValueError(f"--data.flip is {self.flip:g}; a probability lies between 0 and 1")
        if not 0 <= self.mosaic <= 1:
            raise ValueError(
                f"--data.mosaic is {self.mosaic:g}; a probability lies between 0 and 1"
            )
        if not self.scale >= 1:
            raise ValueError(f"--data.scale is {self.scale:g}; at least 1")
        if self.pixel_range is not None and not self.pixel_range[0] < self.pixel_range[1]:
            low, high = self.pixel_range
            raise ValueError(
                f"--data.pixel-range is {low:g} {high:g}; the first must be the smaller"
            )

    def _check_share(self, share: float) -> None:
        if not 0 < share < 1:
            raise ValueError(f"--data.val-share is {share:g}; between 0 and 1, such as 0.2")
        for flag, value in (("--data.val", self.val), ("--data.val-images", self.val_images)):
            if value is not None:
                raise ValueError(
                    f"--data.val-share {share:g} takes the validation set out of --data.train, but "
                    f"{flag} is {value}; leave one of them out (--data.val-share None)"
                )

    def transform(self, batches: float = math.inf) -> Transform:
        """The augmentation of a training sample.

        Args:
            batches: of the whole training, in each process; mosaics end with nine tenths of them.
        """
        from sssd.data.augment import training_transform
        from sssd.data.mosaic import MosaicTransform

        transform = training_transform(self.flip, self.photometric, self.scale)
        if self.mosaic == 0:
            return transform
        return MosaicTransform(transform, self.mosaic, 0.9 * batches)
