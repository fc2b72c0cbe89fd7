"""From settings to datasets."""

import warnings
from collections.abc import Iterable
from typing import Literal

import numpy as np
from rich.console import Console

from sssd.data.checks import Report, check, lacks_objects
from sssd.data.coco import read_coco
from sssd.data.dataset import DetectionDataset
from sssd.data.demo import demo_data
from sssd.data.faults import DataError
from sssd.data.formats import KNOWN, read_dataset
from sssd.data.hints import common_images
from sssd.data.settings import DataConfig
from sssd.data.split import split_by_name, tell_split

Part = Literal["train", "val"]


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
        paths = demo_data()
        return read_coco(paths.train_json, paths.train_images), build_validation_set(config)
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
        paths = demo_data()
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
        or_share = ", or --data.val-share 0.2 to hold out a share of the training images"
        raise DataError(f"--data.{part} is required: {KNOWN}{or_share * (part == 'val')}")
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
    for fault in lacks_objects(dataset):
        raise DataError(f"{flag}: {fault} (`python -m sssd.data check`)")
    return dataset
