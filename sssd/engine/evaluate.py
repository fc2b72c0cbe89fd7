"""The 12 COCO numbers, whatever the ids, from pycocotools or faster-coco-eval.

Both libraries take much on trust: an annotation id of 0 turns AP 1.0 into 0.25, no detections raise
IndexError, NaN scores are accepted, a missing `iscrowd` is a KeyError. Here everything is checked
and renumbered first.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from sssd.data.faults import Id

Record = dict[str, Any]

METRICS = {
    "AP": "mean over IoU 0.50:0.95",
    "AP50": "IoU 0.50",
    "AP75": "IoU 0.75",
    "APs": "small, area below 32²",
    "APm": "medium",
    "APl": "large, area above 96²",
    "AR1": "1 detection an image",
    "AR10": "10 detections an image",
    "AR100": "100 detections an image",
    "ARs": "small",
    "ARm": "medium",
    "ARl": "large",
}


def evaluate_detections(
    ground_truth: dict[str, list[Record]],
    detections: Sequence[Record],
    engine: str = "pycocotools",
) -> dict[str, float]:
    """Compute the 12 COCO numbers of box detections.

    A number is -1, as COCO has it, where the ground truth holds no object of that size.

    Args:
        ground_truth: COCO dict: "images", "annotations", "categories"; ids of any kind; "area" and
            "iscrowd" may be missing.
        detections: COCO results: dicts of image_id, category_id, bbox (x, y, width, height in
            pixels) and score. There may be none.
        engine: "pycocotools", for numbers to report, or "faster-coco-eval", the same numbers
            faster.

    Returns:
        The numbers AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl, in 0..1.

    Raises:
        ValueError: an unknown engine or id, a score or box that is not a finite number, a negative
            width or height, ground truth without images or with two images of one id.

    Example:
        >>> truth = {
        ...     "images": [{"id": 0}],
        ...     "categories": [{"id": 0, "name": "cell"}],
        ...     "annotations": [{"id": 0, "image_id": 0, "category_id": 0, "bbox": [8, 8, 9, 9]}],
        ... }
        >>> found = [{"image_id": 0, "category_id": 0, "bbox": [8, 8, 9, 9], "score": 0.9}]
        >>> round(evaluate_detections(truth, found)["AP"], 6)
        1.0

    Source: https://cocodataset.org/#detection-eval.
    """
    return numbers_of(accumulated(ground_truth, detections, engine))


def numbers_of(evaluation: Any) -> dict[str, float]:
    """The 12 numbers in what `accumulated` returns."""
    return {name: float(value) for name, value in zip(METRICS, evaluation.stats, strict=False)}


def accumulated(
    ground_truth: dict[str, list[Record]],
    detections: Sequence[Record],
    engine: str = "pycocotools",
) -> Any:
    """The library's own evaluation object with precisions, recalls and the 12 numbers (`stats`).

    Args:
        ground_truth: as in `evaluate_detections`, like what follows, and the errors.
        detections: COCO results.
        engine: "pycocotools" or "faster-coco-eval".
    """
    evaluation = matched(ground_truth, detections, engine)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def matched(
    ground_truth: dict[str, list[Record]],
    detections: Sequence[Record],
    engine: str = "pycocotools",
) -> Any:
    """The library's own evaluation object, its detections matched to objects (`evalImgs`).

    Images and categories are numbered from 1 there, in the order of their own ids.

    Args:
        ground_truth: as in `evaluate_detections`, like what follows, and the errors.
        detections: COCO results.
        engine: "pycocotools" or "faster-coco-eval".
    """
    truth_class, evaluation_class = library(engine)
    truth, results = _normalise(ground_truth, detections)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = evaluation_class(
            _index(truth_class, truth),
            _index(truth_class, {**truth, "annotations": results}),
            "bbox",
        )
        evaluation.evaluate()
    return evaluation


def in_order(ids: Sequence[Id]) -> list[int]:
    """Places of ids in the order in which `matched` numbers them: numbers first, then texts."""
    return sorted(range(len(ids)), key=lambda place: (isinstance(ids[place], str), ids[place]))


def to_coco(
    image_ids: Iterable[Id],
    detections: Iterable[dict[str, torch.Tensor]],
    category_ids: Sequence[Id | None],
) -> list[Record]:
    """Turn a detector's outputs into COCO results.

    Args:
        image_ids: the file's own id of each image.
        detections: for each image, boxes (n, 4) xyxy in pixels of the image file, scores (n,) and
            labels (n,) in 0..C-1.
        category_ids: the file's own ids of the C classes; None for one whose detections are to be
            left out.

    Returns:
        A dict of image_id, category_id, bbox (x, y, width, height) and score for each detection.
    """
    results = []
    for image_id, detection in zip(image_ids, detections, strict=True):
        corners = detection["boxes"].detach().to("cpu", torch.float64)
        boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1)
        rows = zip(
            boxes.tolist(), detection["scores"].tolist(), detection["labels"].tolist(), strict=True
        )
        results += [
            {
                "image_id": image_id,
                "category_id": category_ids[label],
                "bbox": box,
                "score": score,
            }
            for box, score, label in rows
            if category_ids[label] is not None
        ]
    return results


def library(name: str) -> tuple[Any, Any]:
    """The classes COCO and COCOeval of an engine.

    Raises:
        ValueError: there is no such engine.
    """
    if name == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return COCO, COCOeval
    if name == "faster-coco-eval":
        from faster_coco_eval import COCO, COCOeval_faster

        return COCO, COCOeval_faster
    raise ValueError(f"engine must be 'pycocotools' or 'faster-coco-eval', not {name!r}")


def _index(coco: Any, document: dict[str, list[Record]]) -> Any:
    indexed = coco()
    indexed.dataset = document
    indexed.createIndex()
    return indexed


def _normalise(
    ground_truth: dict[str, list[Record]], detections: Sequence[Record]
) -> tuple[dict[str, list[Record]], list[Record]]:
    """Number images, categories and records from 1, in the order of their own ids.

    The order is kept because detections of equal score are ranked by it.
    """
    for key in ("images", "annotations", "categories"):
        if key not in ground_truth:
            raise ValueError(f"ground_truth: a COCO dict needs {key!r}, which this one lacks")
    images = _numbered(ground_truth["images"], "images")
    categories = _numbered(ground_truth["categories"], "categories")
    if not images:
        raise ValueError("ground_truth: it holds no images, so there is nothing to evaluate on")
    truth = _renumber(ground_truth["annotations"], images, categories, "ground_truth annotation")
    for record, original in zip(truth, ground_truth["annotations"], strict=True):
        record["iscrowd"] = int(bool(original.get("iscrowd", 0)))
        if original.get("area") is not None:
            record["area"] = original["area"]
    results = _renumber(detections, images, categories, "detections")
    scores = _array(detections, "score", (len(detections),), "detections")
    for record, score in zip(results, scores.tolist(), strict=True):
        record["score"] = score
    names = {
        record["id"]: record.get("name", record["id"]) for record in ground_truth["categories"]
    }
    document: dict[str, list[Record]] = {
        "info": [],  # faster-coco-eval and pycocotools read it
        "images": [{"id": number} for number in images.values()],
        "categories": [{"id": number, "name": str(names[i])} for i, number in categories.items()],
        "annotations": truth,
    }
    return document, results


def _numbered(records: Sequence[Record], what: str) -> dict[Id, int]:
    ids = [record["id"] for record in records]
    if len(set(ids)) != len(ids):
        twice = next(value for value in ids if ids.count(value) > 1)
        raise ValueError(f"ground_truth: two {what} have the id {twice!r}")
    return {ids[place]: number for number, place in enumerate(in_order(ids), start=1)}


def _renumber(
    records: Sequence[Record], images: dict[Id, int], categories: dict[Id, int], what: str
) -> list[Record]:
    boxes = _array(records, "bbox", (len(records), 4), what)
    if (boxes[:, 2:] < 0).any():
        place = int((boxes[:, 2:] < 0).any(axis=1).argmax())
        raise ValueError(f"{what} {place}: width or height is negative: {boxes[place].tolist()}")
    areas = boxes[:, 2] * boxes[:, 3]
    renumbered = []
    rows = zip(records, boxes.tolist(), areas.tolist(), strict=True)
    for number, (record, box, area) in enumerate(rows, start=1):
        image, category = images.get(record["image_id"]), categories.get(record["category_id"])
        if image is None or category is None:
            key, known = ("image_id", images) if image is None else ("category_id", categories)
            raise ValueError(
                f"{what} {number - 1}: {key} {record[key]!r} is not in the ground truth, "
                f"which has {_some(known)}"
            )
        renumbered.append(
            {
                "id": number,
                "image_id": image,
                "category_id": category,
                "bbox": box,
                "area": area,
                "iscrowd": 0,
            }
        )
    return renumbered


def _array(records: Sequence[Record], key: str, shape: tuple[int, ...], what: str) -> np.ndarray:
    values = np.array([record[key] for record in records], np.float64).reshape(shape)
    finite = np.isfinite(values) if values.ndim == 1 else np.isfinite(values).all(axis=1)
    if not finite.all():
        place = int(finite.argmin())
        raise ValueError(
            f"{what} {place}: {key} is not finite: {values[place].tolist()} (image_id "
            f"{records[place]['image_id']!r}); did training diverge?"
        )
    return values


def _some(ids: dict[Id, int]) -> str:
    shown = ", ".join(repr(value) for value in list(ids)[:5])
    return f"{shown}, ... ({len(ids)} ids)" if len(ids) > 5 else shown
