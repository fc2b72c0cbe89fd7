"""What is no mistake in data, or does no harm here, but should be known."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import numpy as np

from sssd.data.dataset import DetectionDataset
from sssd.data.faults import Fault
from sssd.data.image_files import ImageFile


def notes(dataset: DetectionDataset) -> Iterator[Fault]:
    """Give what is no mistake, or does no harm here, but should be known."""
    boxes = dataset.boxes

    def note(kind: str, image: int, record: str, message: str) -> Fault:
        return Fault(kind, dataset.label_file(image), record, message, "note")

    for row in np.flatnonzero(boxes.crowd):
        name = f"{dataset.record_name} {boxes.records[row]}"
        message = "ignored in training, used in evaluation"
        yield note("crowd region", boxes.image_index[row], name, message)
    filled = boxes.image_index[~boxes.crowd]
    for image in np.setdiff1d(np.arange(len(dataset)), filled):
        kind, message = "image without objects", "it is trained on as background"
        if not os.path.exists(dataset.label_file(image)):
            kind, message = (
                "image without label file",
                "it is trained on as background; is this intended?",
            )
        yield note(kind, image, f"image {dataset.image_id(image)!r}", message)
    yield from _doubles(dataset)
    yield from _names_alike(dataset)


def _names_alike(dataset: DetectionDataset) -> Iterator[Fault]:
    """Give the names of more than one category, and those that differ in little."""
    alike: dict[str, list[str]] = {}
    for name in sorted(dataset.classes):
        alike.setdefault("".join(name.split()).casefold(), []).append(name)
    for first, *others in alike.values():
        if not others:
            continue
        kind, message = "duplicate category name", f"{1 + len(others)} categories have this name"
        if different := sorted({repr(name) for name in others if name != first}):
            kind = "category names alike"
            message = (
                f"the same as {', '.join(different)} but for capitals and spaces; they are "
                f"{1 + len(others)} categories"
            )
        yield Fault(kind, dataset.source, f"category {first}", message, "note")


def _doubles(dataset: DetectionDataset) -> Iterator[Fault]:
    """Give what is in the data twice."""
    boxes = dataset.boxes
    objects = np.column_stack([boxes.image_index, boxes.labels, boxes.crowd, boxes.xywh])
    _, first, which = np.unique(objects, axis=0, return_index=True, return_inverse=True)
    for row in np.setdiff1d(np.arange(len(boxes)), first):
        image = boxes.image_index[row]
        other = boxes.records[first[which.reshape(-1)[row]]]
        message = f"the same box and category as {dataset.record_name} {other}"
        record = f"{dataset.record_name} {boxes.records[row]}"
        yield Fault("same object twice", dataset.label_file(image), record, message, "note")
    seen: dict[str, int] = {}
    for row, path in enumerate(map(os.path.normpath, dataset.image_paths)):
        if (other := seen.setdefault(path, row)) != row:
            message = (
                f"image {dataset.image_id(other)!r} is the same file, so each is trained on "
                "without the other's objects: merge them under one id"
            )
            record = f"image {dataset.image_id(row)!r}"
            yield Fault("one file under two ids", path, record, message, "note")


def common_images(
    first: DetectionDataset, second: DetectionDataset, files: Mapping[str, ImageFile]
) -> Iterator[Fault]:
    """Note the images of one set that are in another one, too: by their files' size and ending.

    Args:
        first: what is trained on.
        second: what is evaluated on.
        files: what is known of their image files, by path.
    """
    known = {files[path].signature: path for path in first.image_paths if path in files}
    for row, path in enumerate(second.image_paths):
        if path in files and (other := known.get(files[path].signature)):
            record = f"image {second.image_id(row)!r}"
            message = f"it is also the training image {other}, so AP will be too high"
            yield Fault("image in both sets", path, record, message, "note")
