"""Average precision as a function of how often each validation image counts.

What a verdict owes to the draw of the validation images is found by drawing them again: AP of the
same detections where image i counts w_i times (the bootstrap). Detections are matched once, by
pycocotools; AP of other weights is then sums along the ranking.
"""

from collections.abc import Sequence

import numpy as np

from sssd.engine.analysis import Ranking

RECALLS = np.linspace(0, 1, 101)  # where COCO reads the precision


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
