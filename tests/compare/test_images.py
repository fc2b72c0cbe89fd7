"""AP of weighted images is COCO's AP of images that are there so often."""

import copy

import numpy as np
import pytest

from sssd.compare.images import class_precisions, resampled
from sssd.engine.analysis import rankings
from sssd.engine.evaluate import evaluate_detections, matched

Document = dict[str, list[dict]]


@pytest.fixture(scope="module")
def scene() -> tuple[Document, list[dict]]:
    """40 images of 3 classes with misses, double and false detections, crowds and equal scores."""
    random = np.random.default_rng(0)
    images = [{"id": 7 * i + 3} for i in range(40)]
    truth: list[dict] = []
    found: list[dict] = []
    for image in images:
        for _ in range(random.integers(0, 6)):
            box = [*random.uniform(0, 200, 2), *random.uniform(10, 120, 2)]
            label = int(random.choice([2, 5], p=[0.7, 0.3]))
            crowd = int(random.random() < 0.1)
            row = {"image_id": image["id"], "category_id": label, "bbox": box, "iscrowd": crowd}
            truth.append({"id": len(truth) + 1, **row})
            for _ in range(random.integers(0, 3)):
                moved = (np.array(box) + random.normal(0, 4, 4)).clip(1).tolist()
                score = float(random.integers(1, 9)) / 10
                found.append({**row, "bbox": moved, "score": score})
    categories = [{"id": i, "name": str(i)} for i in (2, 5, 9)]  # nothing of the last one
    return {"images": images, "annotations": truth, "categories": categories}, found


def repeated(scene: tuple[Document, list[dict]], weights: np.ndarray) -> tuple[Document, list]:
    truth, found = scene
    document: Document = {"images": [], "annotations": [], "categories": truth["categories"]}
    results = []
    for image, weight in zip(truth["images"], weights, strict=True):
        for copy_number in range(int(weight)):
            new = image["id"] * 100 + copy_number
            document["images"].append({"id": new})
            for source, target in (
                (truth["annotations"], document["annotations"]),
                (found, results),
            ):
                rows = [copy.copy(row) for row in source if row["image_id"] == image["id"]]
                target += [{**row, "image_id": new} for row in rows]
    for number, row in enumerate(document["annotations"], start=1):
        row["id"] = number
    return document, results


def test_weight_one_is_the_ap_of_coco(scene: tuple[Document, list[dict]]) -> None:
    classes = class_precisions(rankings(matched(*scene)), np.ones(40))
    assert np.isnan(classes).tolist() == [False, False, True]
    expected = evaluate_detections(*scene)["AP"]
    assert 0.1 < expected < 0.9
    assert np.nanmean(classes) == pytest.approx(expected, abs=1e-12)


def test_weights_repeat_images(scene: tuple[Document, list[dict]]) -> None:
    weights = np.random.default_rng(3).multinomial(40, [1 / 40] * 40).astype(float)
    # Scores that differ, as those of detectors do: equal ones are ranked by their place.
    found = [{**row, "score": 1 - i * 1e-4} for i, row in enumerate(scene[1])]
    got = np.nanmean(class_precisions(rankings(matched(scene[0], found)), weights))
    expected = evaluate_detections(*repeated((scene[0], found), weights))["AP"]
    assert got == pytest.approx(expected, abs=1e-3)
    assert got != pytest.approx(evaluate_detections(scene[0], found)["AP"], abs=2e-3)


def test_draws_are_paired_and_spread_like_the_images(scene: tuple[Document, list[dict]]) -> None:
    one = resampled(rankings(matched(*scene)), 200)
    better = [row for row in scene[1] if row["score"] > 0.15]
    other = resampled(rankings(matched(scene[0], better)), 200)
    assert np.array_equal(one, resampled(rankings(matched(*scene)), 200))
    assert 0.01 < one.std() < 0.2
    assert (one - other).std() < one.std()  # the same images are drawn for both
    assert one.mean() == pytest.approx(evaluate_detections(*scene)["AP"], abs=0.05)


def test_without_detections_ap_is_zero(scene: tuple[Document, list[dict]]) -> None:
    classes = class_precisions(rankings(matched(scene[0], [])), np.ones(40))
    assert classes[:2].tolist() == [0, 0]
