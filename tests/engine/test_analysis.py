"""What is read from an evaluation beside the 12 numbers, where the truth is known."""

from typing import Any

import numpy as np
import pytest

from sssd.engine.analysis import analyse, by_class
from sssd.engine.evaluate import accumulated, evaluate_detections
from tests.compare.test_images import scene  # noqa: F401  a fixture

BOX, OTHER, FAR = [10.0, 10, 40, 40], [60.0, 60, 40, 40], [200.0, 200, 30, 30]


def record(image: int, category: int, box: list[float], **more: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": box, **more}


def document(*annotations: dict[str, Any]) -> dict[str, Any]:
    numbered = [{"id": i, **one} for i, one in enumerate(annotations, start=1)]
    names = {7: "cat", 3: "dog"}
    return {
        "images": [{"id": i} for i in (1, 2, 3, 4)],
        "annotations": numbered,
        "categories": [{"id": i, "name": name} for i, name in names.items()],
    }


TRUTH = document(
    record(1, 3, BOX),
    record(1, 7, OTHER),
    record(2, 7, BOX),
    record(2, 7, [190.0, 190, 60, 60], iscrowd=1),
    record(3, 3, OTHER),
)
FOUND = [
    record(1, 3, BOX, score=0.9),  # right
    record(1, 7, [12.0, 10, 40, 40], score=0.8),  # the same object again, as a cat: false
    record(1, 3, OTHER, score=0.7),  # it is a cat: false
    record(2, 7, BOX, score=0.6),  # right
    record(2, 7, FAR, score=0.65),  # on a crowd of cats: not counted
    record(3, 3, FAR, score=0.05),  # false, below every threshold that is good
]


def test_counts_thresholds_and_confusion_are_those_of_a_scene_that_is_known() -> None:
    found = analyse(accumulated(TRUTH, FOUND))
    assert found.names == ["dog", "cat"]  # in the order of their ids
    dog, cat = found.class_thresholds
    # Of dogs the first is right, the next is false: F1 is 2/3 from above 0.7 up to 0.9.
    assert dog is not None
    assert (dog.score, dog.precision, dog.recall) == (pytest.approx(0.81), 1, 0.5)
    assert cat is not None
    assert (cat.f1, cat.precision, cat.recall) == (0.5, 0.5, 0.5)
    # Of all: 1 of 1 (F1 2/5), then 1 of 2, 1 of 3, and 2 of 4 (F1 4/8) from above 0.05 to 0.6.
    best = found.threshold
    assert best is not None
    assert (best.f1, best.precision, best.recall) == (0.5, 0.5, 0.5)
    assert 0.05 < best.score < 0.6
    assert found.f1_of_all[[0, 40, 65, 75, 85, 95]].tolist() == pytest.approx(
        [4 / 9, 4 / 8, 2 / 7, 2 / 6, 2 / 5, 0]
    )
    assert found.confusion.tolist() == [[1, 0, 1], [1, 1, 0], [0, 1, 0]]
    assert found.right.tolist() == [1, 1, 0, 0]
    assert found.wrong.tolist() == [2, 0, 0, 0]
    assert found.objects.tolist() == [2, 1, 1, 0]
    assert found.image_f1[:3].tolist() == pytest.approx([2 / 5, 1, 0])
    assert np.isnan(found.image_f1[3])


def test_nothing_right_has_no_threshold() -> None:
    for found in ([], [record(4, 3, FAR, score=0.9)]):
        analysis = analyse(accumulated(TRUTH, found))
        assert analysis.threshold is None
        assert analysis.class_thresholds == [None, None]
        assert analysis.confusion.tolist() == [[0, 0, 2], [0, 0, 2], [0, 0, 0]]
        assert (analysis.right.sum(), analysis.wrong.sum(), analysis.objects.sum()) == (0, 0, 4)


@pytest.mark.parametrize("engine", ["pycocotools", "faster-coco-eval"])
def test_the_numbers_of_classes_have_the_means_of_all(scene: Any, engine: str) -> None:  # noqa: F811
    rows = by_class(accumulated(*scene, engine))
    numbers = evaluate_detections(*scene)
    assert [row.name for row in rows] == ["2", "5", "9"]
    own = [one for one in scene[0]["annotations"] if not one["iscrowd"]]
    for row in rows:
        images = [one["image_id"] for one in own if str(one["category_id"]) == row.name]
        assert (row.objects, row.images) == (len(images), len(set(images)))
    assert rows[2][4:] == (None,) * 7
    assert [row.label for row in rows] == [0, 1, 2]
    for field in ("AP", "AP50", "AP75", "APs", "APm", "APl"):
        mean = np.mean([getattr(row, field) for row in rows[:2]])
        assert mean == pytest.approx(numbers[field], abs=1e-9)
    assert np.mean([row.AR for row in rows[:2]]) == pytest.approx(numbers["AR100"], abs=1e-9)


def test_f1_is_that_of_the_detections_that_are_left(scene: Any) -> None:  # noqa: F811
    truth, found = scene
    analysis = analyse(accumulated(truth, found))
    for threshold in (0.2, 0.35, 0.7):
        left = [one for one in found if one["score"] >= threshold]
        of_left = analyse(accumulated(truth, left))
        place = round(100 * threshold)
        assert analysis.f1[:, place].tolist() == pytest.approx(of_left.f1[:, 0].tolist())
        assert analysis.f1_of_all[place] == pytest.approx(of_left.f1_of_all[0])
    same = analysis.confusion.diagonal().sum()
    assert same > 0
    assert analysis.confusion[:-1].sum() == analysis.objects.sum(), "each object is somewhere"
