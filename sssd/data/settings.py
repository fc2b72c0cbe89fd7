"""Settings of the data, which a command line shows: without torch, which takes seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from sssd.data.loader import Transform


Format = Literal["coco", "voc", "yolo"]
OnBadData = Literal["raise", "drop"]

PLACES = ("--data.format", "--data.train", "--data.train-images", "--data.val", "--data.val-images")
"""Settings that tell where the data lie; what is read there is known by its fingerprint."""

SOURCE = (
    *PLACES, "--data.train-split", "--data.val-split", "--data.val-share", "--data.pixel-range",
    "--data.on-bad-data",
)  # fmt: skip
"""Settings that say which data they are, and how they are read."""


def require_range(flag: str, pixel_range: tuple[float, float] | None) -> None:
    """Refuses what is no range of pixel values."""
    if pixel_range is None or -math.inf < pixel_range[0] < pixel_range[1] < math.inf:
        return
    low, high = pixel_range
    raise ValueError(f"{flag} is {low:g} {high:g}; it must be two numbers, the smaller one first")


@dataclass(frozen=True)
class DataConfig:
    """Training and validation data, and augmentation."""

    format: Literal[Format, "demo"] | None = None
    """Format of the files; by default detected from the path. demo: handwritten digits on
    photographs, generated on first use."""

    train: Path | None = None
    """Training data: a COCO json, a data.yaml, an obj.data, a list of images, or a folder of COCO,
    VOC or YOLO files."""

    train_images: Path | None = None
    """Folder of the training images; by default where the format usually has them (COCO:
    DIR/train2017 for DIR/annotations/instances_train2017.json)."""

    train_split: str = "train"
    """Which split of a folder or data.yaml; data without splits are used whole."""

    val: Path | None = None
    """Validation data, in the same forms; may be the same folder."""

    val_images: Path | None = None
    """Folder of the validation images; the same default."""

    val_split: str = "val"
    """Which split of a folder or data.yaml, such as test; "val" also finds valid/."""

    val_share: float | None = None
    """If there is no validation set: fraction of the training images to hold out, such as 0.2.
    Which images depends only on their file names."""

    pixel_range: tuple[float, float] | None = None
    """Pixel values of black and white in images with more than 8 bits (16-bit, float); by default 0
    and 65535 for 16 bits. Floats have no default."""

    on_bad_data: OnBadData = "raise"
    """What to do with bad records (missing or truncated images, boxes without area, unknown
    categories, ...): raise lists them and stops, drop trains without them."""

    flip: float = 0.5
    """Probability of a horizontal flip."""

    photometric: bool = False
    """Randomly change brightness, contrast, saturation and hue."""

    scale: float = 1.0
    """Largest factor, at least 1, by which zooming out and cropping randomly change the object
    size."""

    mosaic: float = 0.0
    """Probability of a mosaic of four images; off in the last tenth of training."""

    def __post_init__(self) -> None:
        """Refuses numbers out of their range."""
        if self.val_share is not None:
            self._check_share(self.val_share)
        if not 0 <= self.flip <= 1:
            raise ValueError(
                f"--data.flip is {self.flip:g}; it must be a probability between 0 and 1"
            )
        if not 0 <= self.mosaic <= 1:
            raise ValueError(
                f"--data.mosaic is {self.mosaic:g}; it must be a probability between 0 and 1"
            )
        if not 1 <= self.scale < math.inf:
            raise ValueError(f"--data.scale is {self.scale:g}; it must be a number from 1 on")
        require_range("--data.pixel-range", self.pixel_range)

    def _check_share(self, share: float) -> None:
        if not 0 < share < 1:
            raise ValueError(
                f"--data.val-share is {share:g}; it must lie between 0 and 1, such as 0.2"
            )
        for flag, value in (("--data.val", self.val), ("--data.val-images", self.val_images)):
            if value is not None:
                raise ValueError(
                    f"--data.val-share {share:g} takes the validation set out of --data.train, but "
                    f"{flag} is {value}; leave one of them out (--data.val-share None)"
                )

    def absolute(self) -> DataConfig:
        """With paths that mean the same in every working folder, as a run's record needs."""
        names = ("train", "train_images", "val", "val_images")
        paths = {name: getattr(self, name) for name in names}
        return replace(self, **{n: p.absolute() for n, p in paths.items() if p is not None})

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
