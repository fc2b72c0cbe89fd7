"""Average precision as a function of how often each validation image counts.

What a verdict owes to the draw of the validation images is found by drawing them again: AP of the
same detections where image i counts w_i times (the bootstrap). Detections are matched once, by
pycocotools; AP of other weights is then sums along the ranking.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sssd.engine.evaluate import Record, matched

RECALLS = np.linspace(0, 1, 101)  # where COCO reads the precision


class Ranking(NamedTuple):
    """The detections of one class, best first, at each IoU threshold (T = 10).

    Attributes:
        image: (D,) index of the image of each.
        right: (T, D) whether it matches an object.
        wrong: (T, D) whether it matches none; neither, where it lies on a crowd region.
        objects: (V,) objects of the class in each image.
    """

    image: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    objects: np.ndarray


def rankings(ground_truth: dict[str, list[Record]], detections: Sequence[Record]) -> list[Ranking]:
    """The rankings of all classes, in the order of their ids.

    Args:
        ground_truth: COCO dict of V images.
        detections: COCO results.
    """
    evaluation = matched(ground_truth, detections)
    images = len(evaluation.params.imgIds)
    by_class = images * len(evaluation.params.areaRng)  # its first area range is all sizes
    starts = range(0, len(evaluation.evalImgs), by_class)
    return [_ranking(evaluation.evalImgs[start : start + images]) for start in starts]


def _ranking(by_image: list[dict[str, Any] | None]) -> Ranking:
    """One class's images, None where it has neither object nor detection."""
    there = [(i, one) for i, one in enumerate(by_image) if one is not None]
    objects = np.zeros(len(by_image))
    for i, one in there:
        objects[i] = np.count_nonzero(np.logical_not(one["gtIgnore"]))
    if not there:
        nothing = np.zeros((10, 0), bool)
        return Ranking(np.zeros(0, np.int64), nothing, nothing, objects)
    scores = np.concatenate([one["dtScores"] for _, one in there])
    order = np.argsort(-scores, kind="mergesort")  # as pycocotools ranks equal scores
    image = np.concatenate([np.full(len(one["dtScores"]), i) for i, one in there])[order]
    hit = np.concatenate([one["dtMatches"] for _, one in there], axis=1)[:, order] > 0
    ignored = np.concatenate([one["dtIgnore"] for _, one in there], axis=1)[:, order] > 0
    return Ranking(image, hit & ~ignored, ~hit & ~ignored, objects)


def class_precisions(classes: Sequence[Ranking], weights: np.ndarray) -> np.ndarray:
    """AP of each class (C,), NaN for one without objects.

    Args:
        classes: as `rankings` gives them.
        weights: (V,) how often each image counts.
    """
    return np.array([_precision(ranking, weights) for ranking in classes])


def _precision(ranking: Ranking, weights: np.ndarray) -> float:
    count = float(ranking.objects @ weights)
    if count == 0:
        return np.nan
    own = weights[ranking.image]
    right = np.cumsum(ranking.right * own, axis=1)  # (T, D)
    wrong = np.cumsum(ranking.wrong * own, axis=1)
    precision = right / np.maximum(right + wrong, np.spacing(1.0))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    total = 0.0
    for recall, falling in zip(right / count, precision, strict=True):
        places = np.searchsorted(recall, RECALLS, side="left")
        total += falling[places[places < len(falling)]].sum()
    return total / (len(RECALLS) * len(precision))


def resampled(classes: Sequence[Ranking], draws: int) -> np.ndarray:
    """AP (draws,) on images drawn with replacement; draw i is the same for all of V images."""
    images = len(classes[0].objects)
    random = np.random.default_rng(0)
    share = np.full(images, 1 / images)
    precisions = [
        class_precisions(classes, random.multinomial(images, share).astype(np.float64))
        for _ in range(draws)
    ]
    return np.array([np.nanmean(each) if not np.isnan(each).all() else 0.0 for each in precisions])
