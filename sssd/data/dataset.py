"""One dataset for every file format: flat arrays of boxes, images decoded on demand."""

from __future__ import annotations

import copy
import hashlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from sssd.data.boxes import BoxTable, box_faults, clip_to_image
from sssd.data.faults import DataError, Fault, Id, count_kinds
from sssd.data.images import read_image

Target = dict[str, Any]
ESCAPE = "surrogateescape"  # names of files need not be UTF-8


class DetectionDataset(Dataset[tuple[tv_tensors.Image, Target]]):
    """Images with labelled boxes, held as flat arrays so that worker processes share their memory.

    A list of dicts is copied page by page into each worker as its reference counts are touched;
    arrays are not. Boxes that no detector can learn (NaN, inverted, degenerate, outside the image)
    are left out with one warning and listed in `faults`. Crowd regions are not training targets but
    stay in `ground_truth()`. Images without boxes are kept.

    Args:
        source: the annotation file or folder, for messages.
        image_root: folder that `file_names` are relative to.
        file_names: one for each of the N images.
        image_ids: the file's own ids, all integers or all strings.
        sizes: (N, 2) width and height in pixels.
        boxes: M boxes as the file holds them.
        classes: C names.
        category_ids: C ids as in the file.
        record_name: what a record is called: "annotation", "object", "line".
        label_files: one annotation file for each image; None where `source` holds them all.
        faults: faults found by the reader, which has left out these records.
        pixel_range: values of black and white in images with more than 8 bits (see `read_image`).
        part: which split of `source` this is; the check of its images is cached under this name.
            None: not cached.

    Example:
        >>> dataset = read_coco("annotations/instances_train2017.json")  # doctest: +SKIP
        >>> image, target = dataset[0]  # doctest: +SKIP
        >>> image.shape, target["boxes"].shape  # doctest: +SKIP
        (torch.Size([3, 480, 640]), torch.Size([8, 4]))
    """

    def __init__(
        self,
        *,
        source: str | Path,
        image_root: str | Path,
        file_names: Sequence[str],
        image_ids: Sequence[Id],
        sizes: np.ndarray | Sequence[tuple[int, int]],
        boxes: BoxTable,
        classes: Sequence[str],
        category_ids: Sequence[Id],
        record_name: str = "annotation",
        label_files: Sequence[str] | None = None,
        faults: Sequence[Fault] = (),
        pixel_range: tuple[float, float] | None = None,
        part: str | None = None,
    ) -> None:
        self.source = str(source)
        self.image_root = str(image_root)
        self.classes = list(classes)
        self.category_ids = list(category_ids)
        self.record_name = record_name
        self.pixel_range = pixel_range
        self.part = part
        self._file_names = _byte_array(file_names)
        self._label_files = None if label_files is None else _byte_array(label_files)
        self._image_ids = _id_array(image_ids, self.source)
        self.sizes = np.asarray(sizes, np.int64).reshape(-1, 2)  # (N, 2) width, height
        self.boxes = boxes
        found, good = box_faults(self)
        self.faults = [*faults, *found]
        self.boxes = boxes.take(good)
        self._first_box = np.searchsorted(self.boxes.image_index, np.arange(len(self) + 1))
        if errors := [fault for fault in self.faults if fault.severity == "error"]:
            warnings.warn(
                f"{self.source}: {len(errors)} bad records are left out ({count_kinds(errors)}); "
                "`python -m sssd.data check` lists them",
                stacklevel=3,
            )

    def __len__(self) -> int:
        return len(self._file_names)

    def __getitem__(self, index: int) -> tuple[tv_tensors.Image, Target]:
        path = self.image_path(index)
        image = read_image(path, self.pixel_range)
        height, width = image.shape[-2:]
        if (width, height) != tuple(self.sizes[index]):
            stated = " x ".join(map(str, self.sizes[index]))
            raise DataError(
                f"{path}: the image is {width} x {height}, but {self.label_file(index)} says "
                f"{stated} (image {self.image_id(index)!r}), so its boxes would be misplaced; fix "
                "the annotations or leave the image out"
            )
        boxes, labels = self.targets(index)
        return tv_tensors.Image(image), {
            "boxes": tv_tensors.BoundingBoxes(
                torch.from_numpy(boxes), format="XYXY", canvas_size=(height, width)
            ),
            "labels": torch.from_numpy(labels),
            "image_id": self.image_id(index),
        }

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.classes)

    @property
    def image_paths(self) -> list[str]:
        """The path of every image, in order."""
        return [self.image_path(index) for index in range(len(self))]

    @property
    def file_names(self) -> list[str]:
        """The path of every image below `image_root`, in order."""
        return [name.decode(errors=ESCAPE) for name in self._file_names.tolist()]

    @property
    def image_ids(self) -> list[Id]:
        """The file's own id of every image, in order."""
        return self._image_ids.tolist()

    def image_path(self, index: int) -> str:
        """Give the path of one image."""
        return os.path.join(self.image_root, self._file_names[index].decode(errors=ESCAPE))

    def image_id(self, index: int) -> Id:
        """Give the file's own id of one image."""
        return self._image_ids[index].item()

    def label_file(self, index: int) -> str:
        """Give the file that holds the annotations of one image."""
        return (
            self.source
            if self._label_files is None
            else self._label_files[index].decode(errors=ESCAPE)
        )

    def targets(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Give the boxes (n, 4) xyxy float32, within the image, and labels (n,) to train with."""
        index = range(len(self))[index]  # also one that counts from the end
        rows = slice(self._first_box[index], self._first_box[index + 1])
        learnt = ~self.boxes.crowd[rows]
        boxes = clip_to_image(self.boxes.xywh[rows][learnt], self.sizes[index])
        return boxes, self.boxes.labels[rows][learnt]

    def ground_truth(self) -> dict[str, list[dict[str, Any]]]:
        """Give everything an evaluator needs as a COCO dict, crowd regions included.

        Returns:
            "images", "categories" (with the file's own ids) and "annotations" (numbered from 1).
        """
        ids = self.image_ids
        rows = zip(
            self.boxes.image_index.tolist(),
            self.boxes.labels.tolist(),
            self.boxes.xywh.tolist(),
            self.boxes.areas.tolist(),
            self.boxes.crowd.tolist(),
            strict=True,
        )
        return {
            "images": [
                {
                    "id": image_id,
                    "file_name": name,
                    "width": width,
                    "height": height,
                }
                for image_id, name, (width, height) in zip(
                    ids, self.file_names, self.sizes.tolist(), strict=True
                )
            ],
            "categories": [
                {"id": category_id, "name": name}
                for category_id, name in zip(self.category_ids, self.classes, strict=True)
            ],
            "annotations": [
                {
                    "id": number,
                    "image_id": ids[image],
                    "category_id": self.category_ids[label],
                    "bbox": box,
                    "area": area,
                    "iscrowd": int(crowd),
                }
                for number, (image, label, box, area, crowd) in enumerate(rows, start=1)
            ],
        }

    @property
    def fingerprint(self) -> str:
        """Hash of everything that is trained on: classes, image names and sizes, boxes, labels.

        It does not depend on where the files are, so that a run can be resumed elsewhere.
        """
        digest = hashlib.sha256(repr((self.classes, self.category_ids)).encode())
        for array in (
            self._file_names,
            self._image_ids,
            self.sizes,
            self.boxes.image_index,
            self.boxes.xywh,
            self.boxes.labels,
            self.boxes.crowd,
            self.boxes.areas,
        ):
            digest.update(repr((array.dtype.str, array.shape)).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        if self.pixel_range is not None:
            digest.update(repr(self.pixel_range).encode())
        return digest.hexdigest()[:16]

    def subset(self, indices: Sequence[int] | np.ndarray) -> DetectionDataset:
        """Give a dataset of some of the images, in the order given, without the known faults.

        Args:
            indices: rows of images, each at most once, or whether each is taken.

        Raises:
            IndexError: something else.
            ValueError: an image comes more than once.
        """
        indices = np.arange(len(self))[np.asarray(indices) if len(indices) else []]
        if len(np.unique(indices)) != len(indices):
            raise ValueError("indices: an image comes more than once")
        label_files = None
        if self._label_files is not None:
            label_files = [name.decode(errors=ESCAPE) for name in self._label_files[indices]]
        return DetectionDataset(
            source=self.source,
            image_root=self.image_root,
            file_names=[name.decode(errors=ESCAPE) for name in self._file_names[indices]],
            image_ids=self._image_ids[indices].tolist(),
            sizes=self.sizes[indices],
            boxes=self.boxes.of_images(indices, len(self)),
            classes=self.classes,
            category_ids=self.category_ids,
            record_name=self.record_name,
            label_files=label_files,
            pixel_range=self.pixel_range,
        )

    def with_classes(self, classes: Sequence[str], category_ids: Sequence[Id]) -> DetectionDataset:
        """Give the same images with the classes of other data, matched by name.

        Args:
            classes: names, in index order, among them all of this dataset.
            category_ids: their ids.

        Raises:
            DataError: a class of this dataset is none of them, or a name stands for two classes.
        """
        if (self.classes, self.category_ids) == (list(classes), list(category_ids)):
            return self
        unknown = sorted(set(self.classes) - set(classes))
        twice = [name for name in self.classes if list(classes).count(name) > 1]
        twice += [name for name in self.classes if self.classes.count(name) > 1]
        if unknown or twice:
            what = f"{unknown[0]!r} is not one of" if unknown else f"{twice[0]!r} is twice among"
            raise DataError(
                f"{self.source} has other categories than the training data: {what} "
                f"{some_of(classes if unknown else [*self.classes, *classes])}"
            )
        labels = np.array([list(classes).index(name) for name in self.classes], np.int64)
        renamed = copy.copy(self)
        renamed.boxes = replace(self.boxes, labels=labels[self.boxes.labels])
        renamed.classes, renamed.category_ids = list(classes), list(category_ids)
        return renamed


def some_of(names: Sequence[str]) -> str:
    """Name the first of some names: "3 classes (cat, dog, ape)"."""
    return f"{len(names)} classes ({', '.join(names[:5])}{', ...' * (len(names) > 5)})"


def _byte_array(names: Sequence[str]) -> np.ndarray:
    return np.array([name.encode(errors=ESCAPE) for name in names], dtype=np.bytes_)


def _id_array(ids: Sequence[Id], source: str) -> np.ndarray:
    if all(isinstance(value, str) for value in ids):
        return np.array(ids, dtype=np.str_)
    if all(isinstance(value, int) for value in ids):
        return np.array(ids, dtype=np.int64)
    raise DataError(f"{source}: the image ids must be all integers or all strings")
