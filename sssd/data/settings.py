"""Settings of the data, which a command line shows: without torch, which takes seconds."""

from __future__ import annotations

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

    def __post_init__(self) -> None:
        """Refuses numbers out of their range."""
        if not 0 <= self.flip <= 1:
            raise ValueError(f"--data.flip is {self.flip:g}; a probability lies between 0 and 1")
        if not self.scale >= 1:
            raise ValueError(f"--data.scale is {self.scale:g}; at least 1")
        if self.pixel_range is not None and not self.pixel_range[0] < self.pixel_range[1]:
            low, high = self.pixel_range
            raise ValueError(
                f"--data.pixel-range is {low:g} {high:g}; the first must be the smaller"
            )

    def transform(self) -> Transform:
        """The augmentation of a training sample."""
        from sssd.data.augment import training_transform

        return training_transform(self.flip, self.photometric, self.scale)
