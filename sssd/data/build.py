"""From settings to datasets."""

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console

from sssd.data.augment import training_transform
from sssd.data.check import Report, check
from sssd.data.coco import read_coco
from sssd.data.dataset import DetectionDataset
from sssd.data.demo import demo_data
from sssd.data.faults import DataError
from sssd.data.formats import KNOWN, read_dataset
from sssd.data.hints import common_images
from sssd.data.loader import Transform
from sssd.data.mosaic import MosaicTransform
from sssd.data.split import split_by_name, tell_split

Part = Literal["train", "val"]


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
        transform = training_transform(self.flip, self.photometric, self.scale)
        if self.mosaic == 0:
            return transform
        return MosaicTransform(transform, self.mosaic, 0.9 * batches)


def build_datasets(
    config: DataConfig, console: Console | None = None
) -> tuple[DetectionDataset, DetectionDataset]:
    """Reads and checks the training and the validation set.

    Args:
        config: what to read, and what becomes of bad records.
        console: where to show what the data hold and what is wrong with them.

    Raises:
        DataError: a file that is missing or cannot be used, bad records that are not to be
            dropped, or two sets of other classes.
    """
    if config.format == "demo":
        paths = demo_data(image_size=160)
        return (
            read_coco(paths.train_json, paths.train_images),
            read_coco(paths.val_json, paths.val_images),
        )
    parts: tuple[Part, ...] = ("train", "val") if config.val_share is None else ("train",)
    sets = [_read(config, part, console) for part in parts]
    learnt = sets[0].classes, sets[0].category_ids
    reports = [check(dataset.with_classes(*learnt)) for dataset in sets]
    if console is not None:
        console.print(reports[0])
        for report in reports[1:]:
            console.print(report.summary(), soft_wrap=True)
        for report in reports:
            _tell(console, report.lines())
    resolved = [
        _with_objects(report.resolve(config.on_bad_data), f"--data.{part}")
        for part, report in zip(parts, reports, strict=True)
    ]
    if config.val_share is None:
        train_set, validation_set = resolved
    else:
        train_set, validation_set = split_by_name(resolved[0], config.val_share)
        if console is not None:
            _tell(console, tell_split(config.val_share, train_set, validation_set))
    if console is not None:
        files = {path: file for report in reports for path, file in report.files.items()}
        common = list(common_images(train_set, validation_set, files))
        _tell(console, Report(validation_set, common, np.empty(0, np.int64)).lines(2))
    return train_set, validation_set


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
    part: Part = "val" if config.val_share is None else "train"
    report = check(_read(config, part, console))
    if console is not None:
        _tell(console, report.lines())
    dataset = _with_objects(report.resolve(config.on_bad_data), f"--data.{part}")
    return dataset if config.val_share is None else split_by_name(dataset, config.val_share)[1]


def _read(config: DataConfig, part: Part, console: Console | None) -> DetectionDataset:
    path, images, split = (getattr(config, part + end) for end in ("", "_images", "_split"))
    if path is None:
        or_share = ", or --data.val-share 0.2 for a share of the training images"
        raise DataError(f"--data.{part} is needed: {KNOWN}{or_share * (part == 'val')}")
    assert config.format != "demo"
    with warnings.catch_warnings():
        if console is not None:
            warnings.simplefilter("ignore", UserWarning)  # the report says more
        return read_dataset(path, images, split, config.format, config.pixel_range)


def _tell(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        console.print(line, soft_wrap=True)


def _with_objects(dataset: DetectionDataset, flag: str) -> DetectionDataset:
    """Refuses data in which there is nothing to learn or to find."""
    if len(dataset) == 0:
        raise DataError(f"{flag}: {dataset.source} holds no images")
    if dataset.boxes.crowd.all():
        raise DataError(
            f"{flag}: {dataset.source} holds {len(dataset)} images without a single object; are "
            "the label files where they should be (`python -m sssd.data check`)?"
        )
    return dataset
