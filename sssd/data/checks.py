"""The check of a data set: every fault with file and record, and what the data look like."""

from __future__ import annotations

import itertools
import os
import shlex
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from sssd.data.dataset import DetectionDataset
from sssd.data.faults import DataError, Fault, count_kinds
from sssd.data.formats import read_dataset
from sssd.data.hints import notes
from sssd.data.image_files import ImageFile, KeptImages, open_file
from sssd.data.images import UNREADABLE, why_unreadable
from sssd.data.settings import OnBadData

SHARE = 64  # files of a thread at a time: handing one over costs more than to see it unchanged
PLAIN_MODES = ("RGB", "L")
DARK = 2**14  # of 16 bits: where a picture ends below, it is a quarter as bright as it could be
# Faults for which a reader leaves an image out.
OF_IMAGES = {
    "missing image",
    "unreadable image",
    "incomplete image",
    "duplicate image id",
    "unknown image size",
    "unusable annotation file",
}


@dataclass(frozen=True)
class Report:
    """What a check found.

    Args:
        dataset: what was checked.
        faults: everything that is wrong ("error") or worth knowing ("note").
        bad_images: rows of images that cannot be trained with.
        files: what is known of each image file that can be read, by its path.
        unchanged: how many of them were checked before, and were not opened again.
    """

    dataset: DetectionDataset
    faults: list[Fault]
    bad_images: np.ndarray
    files: dict[str, ImageFile] = field(default_factory=dict)
    unchanged: int = 0

    @property
    def errors(self) -> list[Fault]:
        """The faults that must be repaired or left out."""
        return [fault for fault in self.faults if fault.severity == "error"]

    @property
    def notes(self) -> list[Fault]:
        """The facts that are taken care of."""
        return [fault for fault in self.faults if fault.severity == "note"]

    def resolve(self, on_bad_data: OnBadData) -> DetectionDataset:
        """Give the dataset to train with.

        Args:
            on_bad_data: "raise" stops at any error; "drop" leaves the bad records out.

        Returns:
            The dataset without its bad images and boxes.

        Raises:
            DataError: there are errors, and `on_bad_data` is "raise"; or nothing is left.
            ValueError: `on_bad_data` is neither.
        """
        if on_bad_data not in ("raise", "drop"):
            raise ValueError(f"on_bad_data must be 'raise' or 'drop', not {on_bad_data!r}")
        errors, source = self.errors, self.dataset.source
        if errors and on_bad_data == "raise":
            lines = [str(fault) for fault in errors[:5]]
            lines += [f"... and {len(errors) - 5} more"] if len(errors) > 5 else []
            raise DataError(
                f"{source}: {len(errors)} bad records ({count_kinds(errors)}):\n  "
                + "\n  ".join(lines)
                + f"\nfix them (`python -m sssd.data check {self._place()} --every` lists all), "
                f"or leave them out with --data.on-bad-data drop: {self.dropped()}"
            )
        if len(self.bad_images) == len(self.dataset):
            raise DataError(f"{source}: none of its {len(self.dataset)} images can be used")
        if not errors:
            return self.dataset
        kept = np.setdiff1d(np.arange(len(self.dataset)), self.bad_images)
        return self.dataset.subset(kept)

    def _place(self) -> str:
        """The data as `sssd.data check` takes them."""
        part = self.dataset.part or "train"
        return shlex.quote(str(self.dataset.source)) + f" --split {part}" * (part != "train")

    def dropped(self) -> str:
        """Say how much "drop" leaves out, with what the reader could not take in."""
        dataset, boxes = self.dataset, self.dataset.boxes
        seen = {dataset.image_path(row) for row in self.bad_images}
        unread = [fault for fault in self.errors if fault.file not in seen]
        objects = sum(fault.record.startswith(f"{dataset.record_name} ") for fault in unread)
        images = sum(fault.kind in OF_IMAGES for fault in unread)
        within = int(np.isin(boxes.image_index, self.bad_images).sum())
        bad = len(self.bad_images) + images
        return (
            f"this leaves out {bad} of {len(dataset) + images} images and {within + objects} of "
            f"{len(boxes) + objects} known objects ({within} in those images)"
        )

    def sizes(self) -> dict[str, int]:
        """Count the objects that are small, medium and large in COCO's sense, without crowds."""
        return self.dataset.boxes.count_sizes()

    def lines(self, most: int | None = 5) -> Iterator[str]:
        """Tell the faults as lines of text, errors first.

        Args:
            most: how many of each kind; None: all.
        """
        by_kind: dict[tuple[str, str], list[Fault]] = defaultdict(list)
        for fault in [*self.errors, *self.notes]:
            by_kind[fault.severity, fault.kind].append(fault)
        for (severity, _), faults in by_kind.items():
            for fault in faults[:most]:
                yield f"{severity}: {fault}"
            if most is not None and len(faults) > most:
                yield f"{severity}: ... and {len(faults) - most} more of {faults[0].kind}"

    def summary(self) -> str:
        """Say in a line what the data set holds."""
        boxes = self.dataset.boxes
        empty = len(self.dataset) - boxes.count_images()
        return (
            f"{self.dataset.source}: {len(self.dataset)} images ({empty} without objects), "
            f"{int((~boxes.crowd).sum())} objects, {int(boxes.crowd.sum())} crowd regions, "
            f"{self.dataset.num_classes} categories; {len(self.errors)} errors, "
            f"{len(self.notes)} notes"
            + f"; {self.unchanged} images unchanged since the last check" * bool(self.unchanged)
            + f"; with --data.on-bad-data drop, {self.dropped()}" * bool(self.errors)
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(self.summary())
        yield _category_table(self.dataset)
        yield _size_table(self.sizes())


def check(
    data: DetectionDataset | str | Path,
    images: str | Path | None = None,
    decode: bool = False,
) -> Report:
    """Examine annotations and image files.

    Every image is opened. Of a JPEG that ends as one should, only the header is read, which takes
    little time and finds truncated files; everything else is decoded. What is found of 1000 images
    or more is kept (see `KeptImages`): those that have not changed are not opened another time.

    Args:
        data: a dataset, or the path of one (see `read_dataset`).
        images: folder of the images, for a path.
        decode: open every image anew and decode JPEG wholly, too, which finds damage within them.

    Returns:
        The report; `report.resolve("drop")` gives the dataset without the bad records.

    Raises:
        DataError: the path is no data set.

    Example:
        >>> report = check("coco/annotations/instances_train2017.json")  # doctest: +SKIP
        >>> report.summary()  # doctest: +SKIP
        'coco/annotations/instances_train2017.json: 118287 images (1021 without objects), ...'
    """
    dataset = data if isinstance(data, DetectionDataset) else read_dataset(data, images)
    kept = None if dataset.part is None else KeptImages(dataset.source, dataset.part)
    paths = dataset.image_paths

    def look(row: int) -> tuple[bool, ImageFile | Fault]:
        known = kept.unchanged(paths[row]) if kept is not None and not decode else None
        return known is not None, known or _open(dataset, row, decode)

    def look_at(rows: range) -> list[tuple[bool, ImageFile | Fault]]:
        return [look(row) for row in rows]

    shares = [range(len(dataset))[start : start + SHARE] for start in range(0, len(dataset), SHARE)]
    with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:  # files and Pillow need no lock
        found = [*itertools.chain(*pool.map(look_at, shares))]
    readable = [
        (path, file)
        for path, (_, file) in zip(paths, found, strict=True)
        if isinstance(file, ImageFile)
    ]
    if kept is not None:
        kept.keep(readable)
    of_images = [
        [file] if isinstance(file, Fault) else _faults_of(file, dataset, row)
        for row, (_, file) in enumerate(found)
    ]
    bad = [
        row for row, faults in enumerate(of_images) if any(f.severity == "error" for f in faults)
    ]
    return Report(
        dataset,
        [*dataset.faults, *itertools.chain(*of_images), *notes(dataset)],
        np.array(bad, np.int64),
        dict(readable),
        sum(known for known, _ in found),
    )


def lacks_objects(dataset: DetectionDataset) -> list[Fault]:
    """The fault of data in which there is nothing to learn or to find, if it is there."""
    if len(dataset) == 0:
        return [Fault("no images", dataset.source, "", "it has none")]
    if dataset.boxes.crowd.all():
        message = f"none in {len(dataset)} images; are the label files in the right place?"
        return [Fault("no objects", dataset.source, "", message)]
    return []


def _open(dataset: DetectionDataset, row: int, decode: bool) -> ImageFile | Fault:
    path = dataset.image_path(row)
    record = f"image {dataset.image_id(row)!r}"
    if not os.path.isfile(path):
        return Fault("missing image", path, record, "the file does not exist")
    try:
        return open_file(path, dataset.pixel_range, decode)
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, ...
        reason = str(error) if isinstance(error, DataError) else why_unreadable(path, error)
        reason = reason.removeprefix(f"{path}: {UNREADABLE}")
        return Fault("unreadable image", path, record, reason)


def _faults_of(file: ImageFile, dataset: DetectionDataset, row: int) -> list[Fault]:
    """What is wrong with an image that can be read, or worth knowing."""
    path, record = dataset.image_path(row), f"image {dataset.image_id(row)!r}"
    size, stated = (file.width, file.height), tuple(dataset.sizes[row].tolist())
    if size != stated:
        message = f"it is {_times(size)}, but {dataset.label_file(row)} says {_times(stated)}"
        if (file.stored_width, file.stored_height) == stated:
            message += ", its size before the EXIF rotation"
        return [Fault("wrong size", path, record, message)]
    told = []
    if file.turn != 1:
        told.append(("EXIF rotation", f"orientation {file.turn}, rotated upright when it is read"))
    elif file.stated_turn != "1":
        message = f"{file.stated_turn} is not in 1 to 8: it is read as stored"
        told.append(("unknown EXIF orientation", message))
    if file.mode not in PLAIN_MODES or file.deep_colors:
        message = f"mode {file.mode}, converted to 8-bit RGB when it is read"
        if file.deep_colors:
            message += " (of 16 bits, the high byte: values below 256 become black)"
        brightest = file.brightest
        if brightest is not None and brightest < DARK and dataset.pixel_range is None:
            most = max(255, 2 ** brightest.bit_length() - 1)
            message += (
                f"; nearly black, its values end at {brightest}: --data.pixel-range 0 {most}?"
            )
        told.append(("unusual pixels", message))
    if file.pages > 1:
        told.append(("several pages", f"the first of its {file.pages} pages or frames is read"))
    return [Fault(kind, path, record, message, "note") for kind, message in told]


def _times(size: tuple[int, ...]) -> str:
    return f"{size[0]} x {size[1]}"


def _category_table(dataset: DetectionDataset) -> Table:
    boxes = dataset.boxes
    table = Table(title="categories")
    for column in ("id", "name", "objects", "crowd regions", "images"):
        table.add_column(column, justify="left" if column == "name" else "right")
    for label, (category_id, name) in enumerate(
        zip(dataset.category_ids, dataset.classes, strict=True)
    ):
        mine = boxes.labels == label
        objects, images = mine & ~boxes.crowd, np.unique(boxes.image_index[mine])
        crowds = int((mine & boxes.crowd).sum())
        table.add_row(
            Text(str(category_id)),
            Text(name),
            str(int(objects.sum())),
            str(crowds),
            str(len(images)),
        )
    return table


def _size_table(sizes: dict[str, int]) -> Table:
    table = Table(title="sizes")
    table.add_column("size")
    table.add_column("objects", justify="right")
    table.add_column("share")
    total = max(sum(sizes.values()), 1)
    limits = {"small": "below 32²", "medium": "below 96²", "large": "96² and more"}
    for name, count in sizes.items():
        bar = "█" * round(20 * count / total)
        table.add_row(f"{name}, {limits[name]}", str(count), f"{bar} {100 * count / total:.0f} %")
    return table
