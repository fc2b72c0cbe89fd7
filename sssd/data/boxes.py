"""The boxes of a dataset as flat arrays, and which of them can be learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sssd.data.faults import DataError, Fault, Id, Severity

if TYPE_CHECKING:
    from sssd.data.dataset import DetectionDataset


SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, np.inf)}
"""COCO's sizes of objects: from and below how many square pixels."""


class BoxRow(NamedTuple):
    """One box as a reader finds it."""

    image: int
    """Row of its image."""

    xywh: Sequence[float]
    """x, y, width, height in pixels."""

    label: int
    """Class index in 0..C-1."""

    record: Id
    """Number or id of its record in the file, for messages."""

    crowd: bool = False
    """Whether it surrounds a crowd of objects instead of one."""

    area: float | None = None
    """Area of the object in square pixels (COCO: of its mask); None: of the box."""


@dataclass(frozen=True)
class BoxTable:
    """M boxes, sorted by image.

    Args:
        image_index: (M,) int64 row of each box's image, ascending.
        xywh: (M, 4) float64 x, y, width, height in pixels, as the file says.
        labels: (M,) int64 class index in 0..C-1.
        crowd: (M,) bool, true for crowd regions.
        areas: (M,) float64 area of the object in square pixels.
        records: (M,) number or id of each box's record in its file.
    """

    image_index: np.ndarray
    xywh: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    records: np.ndarray

    @classmethod
    def from_rows(cls, rows: Sequence[BoxRow]) -> BoxTable:
        """Build the table from boxes in any order."""
        xywh = np.array([row.xywh for row in rows], np.float64).reshape(-1, 4)
        records = [row.record for row in rows]
        if any(isinstance(r, int) and not -(2**63) <= r < 2**63 for r in records):
            records = [str(record) for record in records]
        stated = np.array([row.area for row in rows], np.float64)  # None becomes NaN
        table = cls(
            image_index=np.array([row.image for row in rows], np.int64),
            xywh=xywh,
            labels=np.array([row.label for row in rows], np.int64),
            crowd=np.array([row.crowd for row in rows], bool),
            areas=np.where(np.isnan(stated), xywh[:, 2] * xywh[:, 3], stated),
            records=np.array(records),
        )
        return table.take(np.argsort(table.image_index, kind="stable"))

    def __len__(self) -> int:
        return len(self.labels)

    def count_sizes(self) -> dict[str, int]:
        """Count the objects of COCO's sizes, without crowds."""
        areas = self.areas[~self.crowd]
        return {name: int(((areas >= a) & (areas < b)).sum()) for name, (a, b) in SIZES.items()}

    def count_images(self) -> int:
        """Count the images that have an object, crowds aside."""
        return len(np.unique(self.image_index[~self.crowd]))

    def take(self, rows: np.ndarray) -> BoxTable:
        """Give the boxes of a mask or of row numbers."""
        return BoxTable(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def of_images(self, images: np.ndarray, total: int) -> BoxTable:
        """Give the boxes of some of `total` images, which are renumbered in the order given."""
        new_row = np.full(total, -1, np.int64)
        new_row[images] = np.arange(len(images))
        moved = replace(self, image_index=new_row[self.image_index])
        kept = np.flatnonzero(moved.image_index >= 0)
        return moved.take(kept[np.argsort(moved.image_index[kept], kind="stable")])


def clip_to_image(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Turn x, y, width, height into xyxy within the image.

    Args:
        boxes: (n, 4) x, y, width, height in pixels.
        sizes: (n, 2) or (2,) width and height of the image.

    Returns:
        (n, 4) float32 xyxy.
    """
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    limits = np.broadcast_to(np.tile(sizes, 2), corners.shape)
    return np.clip(corners, 0, limits).astype(np.float32)


TINY = "augmentation drops it, evaluation counts it"
RARE = 0.01  # share of boxes; so many slips of the mouse are in published data sets, too


def refuse_other_units(dataset: DetectionDataset) -> None:
    """Refuse boxes that are not in pixels, or corners where COCO has a size: all would be wrong.

    Raises:
        DataError: all boxes are fractions of the image; or most COCO boxes stick out of theirs, and
            all would lie within it if they were corners.
    """
    boxes, sizes = dataset.boxes.xywh, dataset.sizes[dataset.boxes.image_index]
    if not len(boxes):
        return
    ends = boxes[:, :2] + boxes[:, 2:]
    if ends.max() <= 1 and sizes.min() > 2 and (boxes % 1 > 0).any():
        raise DataError(
            f"{dataset.source}: all boxes lie within 0..1, so they look like fractions of the "
            "image; multiply x and width by the image's width, y and height by its height"
        )
    corners = (boxes[:, 2:] > boxes[:, :2]).all() and (boxes[:, 2:] <= sizes + 1).all()
    beyond = (ends > sizes + 1).any(axis=1).mean()
    if dataset.record_name == "annotation" and len(boxes) >= 4 and corners and beyond > 0.5:
        raise DataError(
            f"{dataset.source}: its boxes look like x1, y1, x2, y2 (read as x, y, width, height, "
            f"{beyond:.0%} reach outside their image), but COCO's bbox is x, y, width, height; "
            "convert them"
        )


def box_faults(dataset: DetectionDataset) -> tuple[list[Fault], np.ndarray]:
    """Find the boxes that no detector can learn, and those that stick out of their image.

    Boxes without area in the image are slips where they are rare: two of COCO's train2017 have no
    height (annotations 918 and 2206849). Where they are not, the file was written wrongly.

    Args:
        dataset: with every box that its file holds.

    Returns:
        The faults, and which of the M boxes are good.
    """
    table = dataset.boxes
    boxes, sizes = table.xywh, dataset.sizes[table.image_index]
    finite = np.all(np.isfinite(boxes), axis=1)
    boxes = np.where(finite[:, None], boxes, 0)
    inverted = finite & (boxes[:, 2:] < 0).any(axis=1)
    clipped = clip_to_image(boxes, sizes)
    has_area = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    degenerate = finite & ~inverted & (boxes[:, 2:].astype(np.float32) <= 0).any(axis=1)
    outside = finite & ~inverted & ~degenerate & ~has_area
    good = finite & ~inverted & has_area & ~degenerate
    # Annotation tools round: one pixel over the edge is no mistake worth a line.
    beyond = np.maximum(-boxes[:, :2], boxes[:, :2] + boxes[:, 2:] - sizes).max(axis=1, initial=0)
    faults = []
    rare = (degenerate | outside).mean() <= RARE if len(boxes) else True
    empty: Severity = "note" if rare else "error"
    left_out = ", it is left out" * bool(rare)
    kinds: tuple[tuple[str, np.ndarray, str, Severity], ...] = (
        ("NaN box", ~finite, "a coordinate is not a finite number", "error"),
        ("inverted box", inverted, "width or height is negative", "error"),
        ("degenerate box", degenerate, f"width or height is zero{left_out}", empty),
        ("box outside", outside, f"no part of it lies in the image{left_out}", empty),
        ("box below one pixel", good & (boxes[:, 2:] < 1).any(axis=1), TINY, "note"),
        ("box over the edge", good & (beyond > 1), "it is cut at the edge of the image", "note"),
    )
    for kind, rows, why, severity in kinds:
        for row in np.flatnonzero(rows):
            image = table.image_index[row]
            x, y, width, height = table.xywh[row].tolist()
            faults.append(
                Fault(
                    kind,
                    dataset.label_file(image),
                    f"{dataset.record_name} {table.records[row]}",
                    f"{why}: x {x:g}, y {y:g}, width {width:g}, height {height:g} in image "
                    f"{dataset.image_id(image)!r} of {sizes[row, 0]} x {sizes[row, 1]}",
                    severity,
                )
            )
    return faults, good
