"""A validation set out of the training set, by the names of the images."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sssd.data.dataset import ESCAPE, DetectionDataset
from sssd.data.faults import DataError

SALT = b"sssd validation "  # never changed: every split depends on it


def split_by_name(
    dataset: DetectionDataset, share: float
) -> tuple[DetectionDataset, DetectionDataset]:
    """Split a dataset in two, image by image, the same whenever and wherever it is done.

    An image's side is drawn from its name, so that it stays there when others are added. Then a
    class that one side lacks gets an image there, if it has two: those whose draw was closest.

    Args:
        dataset: what to split.
        share: of the images, for the second part; between 0 and 1.

    Returns:
        What is trained on and what is validated on.

    Raises:
        DataError: one side would be empty.
    """
    draw = np.array([_draw(name) for name in _names(dataset)])
    second = draw < share
    images_of = _images_by_class(dataset)
    for rows in images_of:  # what is not trained on can never be found: this side first
        if len(rows) and second[rows].all():
            second[rows[np.argmax(draw[rows])]] = False
    first_counts = np.array([(~second[rows]).sum() for rows in images_of])
    for label, rows in enumerate(images_of):
        if len(rows) < 2 or second[rows].any():
            continue
        for row in rows[np.argsort(draw[rows])]:
            held = [other for other, own in enumerate(images_of) if _holds(own, row)]
            if label in held and (first_counts[held] > 1).all():
                second[row] = True
                first_counts[held] -= 1
                break
    if second.all() or not second.any():
        raise DataError(
            f"--data.val-share {share:g}: of the {len(dataset)} images of {dataset.source} none "
            f"would be left to {'train on' if second.all() else 'validate on'}; use another share, "
            "or give a validation set with --data.val"
        )
    return dataset.subset(np.flatnonzero(~second)), dataset.subset(np.flatnonzero(second))


def tell_split(
    share: float, train_set: DetectionDataset, validation_set: DetectionDataset
) -> Iterator[str]:
    """Say what a split has come to, and which classes one of its sides lacks."""
    held_out, total = len(validation_set), len(train_set) + len(validation_set)
    yield (
        f"--data.val-share {share:g}: {held_out} of {total} images ({held_out / total:.1%}) are "
        f"held out for validation, {len(train_set)} are for training, chosen by file name"
    )
    sides = (("trained on", train_set, validation_set), ("validated on", validation_set, train_set))
    for what, side, other in sides:
        only = set(_labels(other)) - set(_labels(side))
        if only:
            names = ", ".join(train_set.classes[label] for label in sorted(only))
            yield f"note: these classes have too few images to be {what} as well: {names}"


def _names(dataset: DetectionDataset) -> Iterator[bytes]:
    """Give a name of each image that does not depend on which others there are.

    That is its path below the file or folder of the data, or as the file states it.
    """
    source = Path(dataset.source)
    base = os.path.abspath(source if source.is_dir() else source.parent)
    for path, name in zip(dataset.image_paths, dataset.file_names, strict=True):
        below = os.path.relpath(path, base)
        yield (name if below.startswith(os.pardir) else below).encode(errors=ESCAPE)


def _draw(name: bytes) -> float:
    digest = hashlib.blake2b(SALT + name, digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _images_by_class(dataset: DetectionDataset) -> list[np.ndarray]:
    """Give the rows of the images with objects of each class, ascending."""
    learnt = ~dataset.boxes.crowd
    pairs = np.unique(
        np.column_stack([dataset.boxes.labels[learnt], dataset.boxes.image_index[learnt]]), axis=0
    )
    ends = np.searchsorted(pairs[:, 0], np.arange(dataset.num_classes + 1))
    return [pairs[start:end, 1] for start, end in itertools.pairwise(ends)]


def _holds(rows: np.ndarray, row: int) -> bool:
    place = np.searchsorted(rows, row)
    return bool(place < len(rows) and rows[place] == row)


def _labels(dataset: DetectionDataset) -> list[int]:
    return np.unique(dataset.boxes.labels[~dataset.boxes.crowd]).tolist()
