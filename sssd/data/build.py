"""From settings to datasets."""

import warnings
from collections.abc import Iterable
from typing import Literal

from rich.console import Console

from sssd.data.checks import Report, check
from sssd.data.coco import read_coco
from sssd.data.dataset import DetectionDataset
from sssd.data.demo import demo_data
from sssd.data.faults import DataError
from sssd.data.formats import KNOWN, read_dataset
from sssd.data.hints import common_images
from sssd.data.settings import DataConfig


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
    with warnings.catch_warnings():
        if console is not None:
            warnings.simplefilter("ignore", UserWarning)  # the report says more
        train_set, validation_set = (_read(config, "train"), _read(config, "val"))
    validation_set = validation_set.with_classes(train_set.classes, train_set.category_ids)
    reports = check(train_set), check(validation_set)
    if console is not None:
        console.print(reports[0])
        console.print(reports[1].summary(), soft_wrap=True)
        for report in reports:
            _tell(console, report.lines())
        common = list(common_images(train_set, validation_set))
        _tell(console, Report(validation_set, common, reports[1].bad_images).lines(2))
    return (
        _with_objects(reports[0].resolve(config.on_bad_data), "--data.train"),
        _with_objects(reports[1].resolve(config.on_bad_data), "--data.val"),
    )


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
    with warnings.catch_warnings():
        if console is not None:
            warnings.simplefilter("ignore", UserWarning)  # the report says more
        report = check(_read(config, "val"))
    if console is not None:
        _tell(console, report.lines())
    return _with_objects(report.resolve(config.on_bad_data), "--data.val")


def _read(config: DataConfig, name: Literal["train", "val"]) -> DetectionDataset:
    path, images, split = (getattr(config, name + end) for end in ("", "_images", "_split"))
    if path is None:
        raise DataError(f"--data.{name} is needed: {KNOWN}")
    assert config.format != "demo"
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
