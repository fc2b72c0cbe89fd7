"""From settings to datasets."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from sssd.data.check import check
from sssd.data.coco import read_coco
from sssd.data.dataset import DetectionDataset
from sssd.data.demo import demo_data
from sssd.data.faults import DataError
from sssd.data.formats import read_dataset


@dataclass(frozen=True)
class DataConfig:
    """What is trained on, and how it is augmented."""

    format: Literal["coco", "voc", "yolo", "demo"] | None = None
    """Format of the files, by default known by their path; demo: handwritten digits on
    photographs, made on first use."""

    train: Path | None = None
    """What is trained on: a COCO json, or a VOC or YOLO folder."""

    train_images: Path | None = None
    """Folder of its images; by default the usual place of the format (COCO:
    DIR/train2017 for DIR/annotations/instances_train2017.json)."""

    val: Path | None = None
    """What is evaluated on, in the same forms."""

    val_images: Path | None = None
    """Folder of its images; the same default."""

    on_bad_data: Literal["raise", "drop"] = "raise"
    """What becomes of bad records (missing or truncated images, boxes without area, unknown
    categories, ...): raise names them and stops, drop trains without them."""

    flip: float = 0.5
    """Probability of a horizontal flip."""

    photometric: bool = False
    """Change brightness, contrast, saturation and hue."""

    scale: float = 1.0
    """Largest random change of object size, at least 1."""


def build_datasets(
    config: DataConfig, console: Console | None = None
) -> tuple[DetectionDataset, DetectionDataset]:
    """Reads and checks the training and the validation set.

    Args:
        config: what to read, and what becomes of bad records.
        console: where to show what the data hold and what is wrong with them.

    Raises:
        DataError: a file that is missing or can not be used, bad records that are not to be
            dropped, or two sets of other classes.
    """
    if config.format == "demo":
        paths = demo_data(image_size=160)
        return (
            read_coco(paths.train_json, paths.train_images),
            read_coco(paths.val_json, paths.val_images),
        )
    for name in ("train", "val"):
        if getattr(config, name) is None:
            raise DataError(f"--data.{name} is needed: a COCO json, or a VOC or YOLO folder")
    assert config.train is not None
    assert config.val is not None
    with warnings.catch_warnings():
        if console is not None:
            warnings.simplefilter("ignore", UserWarning)  # the report says more
        train_set = read_dataset(config.train, config.train_images, "train", config.format)
        validation_set = read_dataset(config.val, config.val_images, "val", config.format)
    categories = [
        dict(zip(dataset.category_ids, dataset.classes, strict=True))
        for dataset in (train_set, validation_set)
    ]
    if categories[0] != categories[1]:
        raise DataError(
            f"{config.train} and {config.val} have different categories: "
            f"{categories[0]} and {categories[1]}"
        )
    reports = check(train_set), check(validation_set)
    if console is not None:
        console.print(reports[0])
        console.print(reports[1].summary(), soft_wrap=True)
        for report in reports:
            for line in report.lines():
                console.print(line, markup=False, highlight=False, soft_wrap=True)
    return reports[0].resolve(config.on_bad_data), reports[1].resolve(config.on_bad_data)


def build_validation_set(config: DataConfig, console: Console | None = None) -> DetectionDataset:
    """Reads and checks the validation set alone.

    Args:
        config: what to read, and what becomes of bad records.
        console: where to show what is wrong with the data.

    Raises:
        DataError: as `build_datasets`.
    """
    if config.format == "demo":
        paths = demo_data(image_size=160)
        return read_coco(paths.val_json, paths.val_images)
    if config.val is None:
        raise DataError("--data.val is needed: a COCO json, or a VOC or YOLO folder")
    with warnings.catch_warnings():
        if console is not None:
            warnings.simplefilter("ignore", UserWarning)  # the report says more
        dataset = read_dataset(config.val, config.val_images, "val", config.format)
    report = check(dataset)
    if console is not None:
        for line in report.lines():
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    return report.resolve(config.on_bad_data)
