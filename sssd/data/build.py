"""From settings to datasets."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sssd.data.coco import read_coco
from sssd.data.dataset import DetectionDataset
from sssd.data.demo import demo_data
from sssd.data.faults import DataError


@dataclass(frozen=True)
class DataConfig:
    """What is trained on, and how it is augmented."""

    format: Literal["coco", "demo"] = "coco"
    """coco: any folder with COCO json annotations. demo: handwritten digits on photographs."""

    train: Path | None = None
    """COCO json to train on."""

    train_images: Path | None = None
    """Its images; by default COCO's own place, DIR/X for DIR/annotations/instances_X.json."""

    val: Path | None = None
    """COCO json to evaluate on."""

    val_images: Path | None = None
    """Its images; the same default."""

    flip: float = 0.5
    """Probability of a horizontal flip."""

    photometric: bool = False
    """Change brightness, contrast, saturation and hue."""

    scale: float = 1.0
    """Largest random change of object size, at least 1."""


def build_datasets(config: DataConfig) -> tuple[DetectionDataset, DetectionDataset]:
    """Reads the training and the validation set.

    Raises:
        DataError: a file that is missing or can not be used, or two sets of other classes.
    """
    if config.format == "demo":
        paths = demo_data()
        return (
            read_coco(paths.train_json, paths.train_images),
            read_coco(paths.val_json, paths.val_images),
        )
    for name in ("train", "val"):
        if getattr(config, name) is None:
            raise DataError(f"--data.{name} FILE is needed: the COCO json to {name} on")
    train_set = read_coco(config.train, config.train_images)
    validation_set = read_coco(config.val, config.val_images)
    if train_set.category_ids != validation_set.category_ids:
        raise DataError(
            f"{config.train} and {config.val} have different categories: "
            f"{train_set.classes} and {validation_set.classes}"
        )
    return train_set, validation_set
