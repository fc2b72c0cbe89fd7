"""What the detections of an evaluation say beyond the 12 numbers: by class, by threshold, by image.

All of it is read from pycocotools' own evaluation, so it follows COCO's rules: at most 100
detections of a class and image count, a detection on a crowd region is neither right nor wrong,
and a crowd region is no object to be found. The confusion matrix alone matches across classes; its
rule is in `confusion`.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

THRESHOLDS = np.arange(101) / 100  # scores at which F1 is looked at, the nearest to their decimals
IOU = 0.5  # of everything here but AP and AR
ALL, SMALL, MEDIUM, LARGE = range(4)  # COCO's areas


class ClassNumbers(NamedTuple):
    """COCO's numbers of one class, in 0..1; None where there is no object to be found.

    Attributes:
        name: of the class.
        label: its place in the order of the categories' ids: two may have one name.
        images: how many hold an object of it.
        objects: without crowd regions.
        AP: mean over IoU 0.50:0.95; AP50 and AP75 at one IoU; APs, APm and APl by size.
        AR: share of the objects that 100 detections an image find, mean over IoU 0.50:0.95.
    """

    name: str
    label: int
    images: int
    objects: int
    AP: float | None
    AP50: float | None
    AP75: float | None
    APs: float | None
    APm: float | None
    APl: float | None
    AR: float | None


class Ranking(NamedTuple):
    """The detections of one class, best first, at each IoU threshold (T = 10).

    Attributes:
        score: (D,) of each.
        image: (D,) index of the image of each, in the order of the images' ids.
        right: (T, D) whether it matches an object.
        wrong: (T, D) whether it matches none; neither, where it lies on a crowd region.
        objects: (V,) objects of the class in each image.
    """

    score: np.ndarray
    image: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    objects: np.ndarray


class Threshold(NamedTuple):
    """The score with the best F1 at IoU 0.5, and what the detections from it on are worth."""

    score: float
    f1: float
    precision: float
    recall: float


@dataclass(frozen=True)
class Analysis:
    """Of C classes in the order of their ids, and V images in the order of theirs.

    Attributes:
        names: of the C classes.
        precision: (C, 101) at recall 0, 0.01, ..., 1 and IoU 0.5; NaN for a class without objects.
        f1: (C, 101) at score thresholds 0, 0.01, ..., 1 and IoU 0.5.
        f1_of_all: (101,) likewise, of the detections of all classes together.
        threshold: the best one for all classes; None if not a single detection is right.
        class_thresholds: the best one of each class, likewise.
        confusion: (C + 1, C + 1) counts at `threshold`: see `confusion`.
        right: (V,) detections from `threshold` on that match an object; `wrong`: that match none.
        objects: (V,) objects of all classes.
    """

    names: list[str]
    precision: np.ndarray
    f1: np.ndarray
    f1_of_all: np.ndarray
    threshold: Threshold | None
    class_thresholds: list[Threshold | None]
    confusion: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    objects: np.ndarray

    @property
    def image_f1(self) -> np.ndarray:
        """(V,) F1 of each image; NaN where there is neither an object nor a detection."""
        total = self.right + self.wrong + self.objects
        return np.divide(2 * self.right, total, out=np.full(len(total), np.nan), where=total > 0)


def by_class(evaluation: Any) -> list[ClassNumbers]:
    """The numbers of each class, in the order of their ids.

    Args:
        evaluation: pycocotools' or faster-coco-eval's, accumulated.
    """
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    thresholds = evaluation.params.iouThrs
    at = {iou: int(np.argmin(abs(thresholds - iou))) for iou in (0.5, 0.75)}
    images_of: dict[int, list[int]] = {category: [] for category in evaluation.params.catIds}
    for one in evaluation.cocoGt.dataset["annotations"]:
        if not one["iscrowd"]:
            images_of[one["category_id"]].append(one["image_id"])
    rows = []
    for place, (category, objects) in enumerate(images_of.items()):
        of_class = precision[:, :, place, :, -1]  # (T, 101, areas)
        rows.append(
            ClassNumbers(
                name=evaluation.cocoGt.cats[category]["name"],
                label=place,
                images=len(set(objects)),
                objects=len(objects),
                AP=_mean(of_class[..., ALL]),
                AP50=_mean(of_class[at[0.5], :, ALL]),
                AP75=_mean(of_class[at[0.75], :, ALL]),
                APs=_mean(of_class[..., SMALL]),
                APm=_mean(of_class[..., MEDIUM]),
                APl=_mean(of_class[..., LARGE]),
                AR=_mean(recall[:, place, ALL, -1]),
            )
        )
    return rows


def _mean(values: np.ndarray) -> float | None:
    there = values[values > -1]
    return float(there.mean()) if there.size else None


def analyse(evaluation: Any) -> Analysis:
    """Reads everything that is not in the 12 numbers from an evaluation.

    Args:
        evaluation: pycocotools', accumulated.
    """
    classes = rankings(evaluation)
    counts = np.stack([_counts(ranking) for ranking in classes])  # (C, right and found, 101)
    objects = np.array([ranking.objects.sum() for ranking in classes])
    best = _best(counts.sum(0), objects.sum())
    first = evaluation.eval["precision"][0, :, :, ALL, -1].T  # (C, 101)
    at_images = np.zeros((2, len(evaluation.params.imgIds)), np.int64)
    if best is not None:
        for ranking in classes:
            kept = ranking.score >= best.score
            for row, which in zip(at_images, (ranking.right[0], ranking.wrong[0]), strict=True):
                row += np.bincount(ranking.image[kept & which], minlength=len(row))
    return Analysis(
        names=[evaluation.cocoGt.cats[category]["name"] for category in evaluation.params.catIds],
        precision=np.where(first < 0, np.nan, first),
        f1=np.stack([_f1(own, count) for own, count in zip(counts, objects, strict=True)]),
        f1_of_all=_f1(counts.sum(0), objects.sum()),
        threshold=best,
        class_thresholds=[_best(own, count) for own, count in zip(counts, objects, strict=True)],
        confusion=confusion(evaluation, 1.1 if best is None else best.score),
        right=at_images[0],
        wrong=at_images[1],
        objects=np.sum([ranking.objects for ranking in classes], axis=0).astype(np.int64),
    )


def rankings(evaluation: Any) -> list[Ranking]:
    """The rankings of all classes, in the order of their ids.

    Args:
        evaluation: pycocotools', matched.
    """
    images = len(evaluation.params.imgIds)
    by_area = images * len(evaluation.params.areaRng)  # its first area range is all sizes
    starts = range(0, len(evaluation.evalImgs), by_area)
    return [_ranking(evaluation.evalImgs[start : start + images]) for start in starts]


def _ranking(by_image: list[dict[str, Any] | None]) -> Ranking:
    """One class's images, None where it has neither object nor detection."""
    there = [(i, one) for i, one in enumerate(by_image) if one is not None]
    objects = np.zeros(len(by_image))
    for i, one in there:
        objects[i] = np.count_nonzero(np.logical_not(one["gtIgnore"]))
    if not there:
        nothing = np.zeros((10, 0), bool)
        return Ranking(np.zeros(0), np.zeros(0, np.int64), nothing, nothing, objects)
    scores = np.concatenate([one["dtScores"] for _, one in there])
    order = np.argsort(-scores, kind="mergesort")  # as pycocotools ranks equal scores
    image = np.concatenate([np.full(len(one["dtScores"]), i) for i, one in there])[order]
    hit = np.concatenate([one["dtMatches"] for _, one in there], axis=1)[:, order] > 0
    ignored = np.concatenate([one["dtIgnore"] for _, one in there], axis=1)[:, order] > 0
    return Ranking(scores[order], image, hit & ~ignored, ~hit & ~ignored, objects)


def _counts(ranking: Ranking) -> np.ndarray:
    """(2, 101): detections from each threshold on that are right, and that count at all."""
    kept = np.searchsorted(-ranking.score, -THRESHOLDS, side="right")
    right, wrong = ranking.right[0], ranking.wrong[0]
    return np.stack([np.append(0, np.cumsum(flags))[kept] for flags in (right, right | wrong)])


def _f1(counts: np.ndarray, objects: float) -> np.ndarray:
    right, found = counts
    return 2 * right / np.maximum(found + objects, 1)


def _best(counts: np.ndarray, objects: float) -> Threshold | None:
    """The middle one of the thresholds with the best F1."""
    f1 = _f1(counts, objects)
    if f1.max() == 0:
        return None
    places = np.flatnonzero(f1 == f1.max())
    place = int(places[len(places) // 2])
    right, found = counts[:, place]
    score = float(THRESHOLDS[place])
    return Threshold(score, float(f1[place]), float(right / found), float(right / objects))


def confusion(evaluation: Any, threshold: float) -> np.ndarray:
    """Which class was found where which one is: (C + 1, C + 1) counts, rows are the truth.

    In each image, pairs of an object and a detection with IoU 0.5 or more, of any classes, are
    taken from the largest IoU down, each object and detection once; of equal pairs, one of the same
    class comes first. The last column holds objects that are left, which were missed, and the last
    row detections that are left, which are false. A detection that is left and lies by half of its
    area or more on a crowd region, of any class, is not counted.

    Args:
        evaluation: pycocotools'.
        threshold: score from which detections count.
    """
    from pycocotools.mask import iou

    place = {category: i for i, category in enumerate(evaluation.params.catIds)}
    nothing = len(place)
    matrix = np.zeros((nothing + 1, nothing + 1), np.int64)
    for image in evaluation.params.imgIds:
        everything = evaluation.cocoGt.imgToAnns[image]
        objects = [one for one in everything if not one["iscrowd"]]
        crowds = [one for one in everything if one["iscrowd"]]
        found = [one for one in evaluation.cocoDt.imgToAnns[image] if one["score"] >= threshold]
        truth = np.array([place[one["category_id"]] for one in objects], np.int64)
        guess = np.array([place[one["category_id"]] for one in found], np.int64)
        ours, theirs = np.full(len(truth), nothing), np.full(len(guess), nothing)
        boxes = [one["bbox"] for one in found]
        if objects and found:
            overlap = iou(boxes, [one["bbox"] for one in objects], [0] * len(objects))  # (D, G)
            pairs = np.argwhere(overlap >= IOU)
            same = guess[pairs[:, 0]] == truth[pairs[:, 1]]
            for d, g in pairs[np.lexsort((~same, -overlap[tuple(pairs.T)]))]:
                if ours[g] == nothing and theirs[d] == nothing:
                    ours[g], theirs[d] = guess[d], truth[g]
        np.add.at(matrix, (truth, ours), 1)
        left = theirs == nothing
        if crowds and found:
            inside = iou(boxes, [one["bbox"] for one in crowds], [1] * len(crowds))
            left &= (inside < IOU).all(axis=1)
        np.add.at(matrix, (nothing, guess[left]), 1)
    return matrix
