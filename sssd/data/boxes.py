"""Which boxes can be learnt from, decided for all boxes of a dataset at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sssd.data.faults import Fault

if TYPE_CHECKING:
    from sssd.data.dataset import DetectionDataset


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


def box_faults(dataset: DetectionDataset) -> tuple[list[Fault], np.ndarray]:
    """Find the boxes that no detector can learn, and those that stick out of their image.

    Args:
        dataset: with every box that its file holds.

    Returns:
        The faults, and which of the M boxes are good.
    """
    boxes, sizes = dataset.boxes, dataset.sizes[dataset.image_index]
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
    for kind, rows, why, severity in (
        ("NaN box", ~finite, "a coordinate is not a finite number", "error"),
        ("inverted box", inverted, "width or height is negative", "error"),
        ("degenerate box", degenerate, "width or height is zero", "error"),
        ("box outside", outside, "no part of it lies in the image", "error"),
        ("box over the edge", good & (beyond > 1), "it is cut at the edge of the image", "note"),
    ):
        for row in np.flatnonzero(rows):
            image = dataset.image_index[row]
            x, y, width, height = dataset.boxes[row].tolist()
            faults.append(
                Fault(
                    kind,
                    dataset.label_file(image),
                    f"{dataset.record_name} {dataset.records[row]}",
                    f"{why}: x {x:g}, y {y:g}, width {width:g}, height {height:g} in image "
                    f"{dataset.image_id(image)!r} of {sizes[row, 0]} x {sizes[row, 1]}",
                    "error" if severity == "error" else "note",
                )
            )
    return faults, good
