"""The 12 COCO numbers: the published ones, and what pycocotools gets wrong by itself."""

import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from sssd.engine.evaluate import METRICS, evaluate_detections, to_coco
from sssd.engine.tables import table

ENGINES = ["pycocotools", "faster-coco-eval"]
# pycocotools adds 2.2e-16 to the number of detections that a precision is divided by, and
# faster-coco-eval does not: where the first detection alone is right, it has 1 for 1 - 2.2e-16.
ROUNDING = 5e-16


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def published(shared_data: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    folder = shared_data / "evaluator"
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    found = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    return truth, found


def scene(images: int = 4, seed: int = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Give ground truth and detections that are nearly right."""
    random = np.random.default_rng(seed)
    annotations, detections = [], []
    for number in range(1, 6 * images + 1):
        x, y, width, height = random.uniform(5, 120, 4).tolist()
        ids = {"image_id": 1 + number % images, "category_id": 1 + number % 3}
        annotations.append(
            {"id": number, **ids, "bbox": [x, y, width, height], "iscrowd": 0, "area": width}
        )
        moved = [x + 3 * random.random(), y, width, height]
        detections.append({**ids, "bbox": moved, "score": random.random()})
    truth = {
        "images": [{"id": number} for number in range(1, images + 1)],
        "categories": [{"id": number, "name": str(number)} for number in (1, 2, 3)],
        "annotations": annotations,
    }
    return truth, detections


def perfect(**changes: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Give one image with two objects that are found exactly."""
    boxes = [[8.0, 8.0, 40.0, 40.0], [60.0, 60.0, 50.0, 50.0]]
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": 1, "bbox": box, **changes}
            for number, box in enumerate(boxes)  # from 0, which pycocotools cannot bear
        ],
    }
    found = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9} for box in boxes]
    return truth, found


def test_the_published_numbers(engine: str, published: tuple) -> None:
    numbers = evaluate_detections(*published, engine=engine)
    assert list(numbers) == list(METRICS)
    assert numbers["AP"] == pytest.approx(0.5045807, abs=5e-8)
    assert numbers["AP50"] == pytest.approx(0.6969727, abs=5e-8)


def test_pycocotools_alone_gives_the_same_bits(
    published: tuple, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    path = tmp_path / "truth.json"
    path.write_text(json.dumps(published[0]))
    truth = COCO(str(path))
    evaluation = COCOeval(truth, truth.loadRes(published[1]), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    capsys.readouterr()
    assert list(evaluate_detections(*published).values()) == evaluation.stats.tolist()
    assert capsys.readouterr().out == ""  # and says nothing


@pytest.mark.parametrize("seed", range(3))
def test_engines_agree(seed: int) -> None:
    truth, found = scene(seed=seed)
    truth["annotations"][3]["iscrowd"] = 1
    first, second = (evaluate_detections(truth, found, engine) for engine in ENGINES)
    assert first == pytest.approx(second, rel=0, abs=ROUNDING)
    assert 0 < first["AP"] < 1


def test_engines_agree_on_the_published_data(published: tuple) -> None:
    first, second = (evaluate_detections(*published, engine) for engine in ENGINES)
    assert first == pytest.approx(second, rel=0, abs=ROUNDING)


def test_ids_from_0(engine: str) -> None:
    numbers = evaluate_detections(*perfect(), engine=engine)
    assert numbers["AP"] == pytest.approx(1)
    assert numbers["AR100"] == pytest.approx(1)


@pytest.mark.parametrize("rename", [str, lambda key: key - 1, lambda key: 10**12 + key])
def test_ids_of_any_kind(rename: Any, engine: str) -> None:
    truth, found = scene()
    expected = evaluate_detections(truth, found, engine)
    renamed, refound = copy.deepcopy((truth, found))
    for record in renamed["images"] + renamed["categories"]:
        record["id"] = rename(record["id"])
    for record in renamed["annotations"] + refound:
        record["image_id"] = rename(record["image_id"])
        record["category_id"] = rename(record["category_id"])
    assert evaluate_detections(renamed, refound, engine) == expected


def test_annotation_ids_do_not_matter(engine: str) -> None:
    truth, found = scene()
    expected = evaluate_detections(truth, found, engine)
    for record in truth["annotations"]:
        del record["id"]
    assert evaluate_detections(truth, found, engine) == expected


def test_no_detections(engine: str) -> None:
    truth, _ = perfect()
    numbers = evaluate_detections(truth, [], engine)
    assert numbers["AP"] == numbers["AR100"] == numbers["APm"] == 0
    assert numbers["APs"] == -1  # there is no small object


def test_no_objects(engine: str) -> None:
    truth, found = perfect()
    numbers = evaluate_detections({**truth, "annotations": []}, found, engine)
    assert set(numbers.values()) == {-1}


def test_area_decides_the_size(engine: str) -> None:
    numbers = evaluate_detections(*perfect(area=10.0), engine=engine)
    assert numbers["APs"] == pytest.approx(1)
    assert numbers["APm"] == -1
    assert evaluate_detections(*perfect(area=None), engine=engine)["APm"] == pytest.approx(1)


def test_crowds_are_not_missed_objects(engine: str) -> None:
    truth, found = perfect()
    assert evaluate_detections(truth, found[:1], engine)["AR100"] == pytest.approx(0.5)
    truth["annotations"][1]["iscrowd"] = 1
    assert evaluate_detections(truth, found[:1], engine)["AR100"] == pytest.approx(1)


def test_the_arguments_are_left_alone(engine: str) -> None:
    truth, found = scene()
    before = copy.deepcopy((truth, found))
    evaluate_detections(truth, found, engine)
    assert (truth, found) == before


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
@pytest.mark.parametrize("key", ["score", "bbox"])
def test_numbers_that_are_not_finite(key: str, value: Any) -> None:
    truth, found = perfect()
    found[1][key] = value if key == "score" else [1, 2, value, 4]
    with pytest.raises(ValueError, match=rf"detections 1: {key} is not finite.*image_id 1"):
        evaluate_detections(truth, found)


def test_unknown_ids_name_the_known_ones() -> None:
    truth, found = perfect()
    with pytest.raises(ValueError, match=r"detections 0: image_id 5 is not in .* which has 1"):
        evaluate_detections(truth, [{**found[0], "image_id": 5}])
    with pytest.raises(ValueError, match=r"detections 0: category_id 0 is not in .* which has 1"):
        evaluate_detections(truth, [{**found[0], "category_id": 0}])
    record = {**truth["annotations"][0], "image_id": "1"}
    with pytest.raises(ValueError, match="ground_truth annotation 2: image_id '1' is not in"):
        evaluate_detections({**truth, "annotations": [*truth["annotations"], record]}, found)


def test_wrong_ground_truth() -> None:
    truth, found = perfect()
    with pytest.raises(ValueError, match="needs 'categories', which this one lacks"):
        evaluate_detections({"images": [], "annotations": []}, found)
    with pytest.raises(ValueError, match="it holds no images"):
        evaluate_detections({**truth, "images": []}, found)
    with pytest.raises(ValueError, match="two images have the id 1"):
        evaluate_detections({**truth, "images": [{"id": 1}, {"id": 1}]}, found)
    with pytest.raises(ValueError, match="detections 0: width or height is negative"):
        evaluate_detections(truth, [{**found[0], "bbox": [1, 2, -3, 4]}])


def test_unknown_engine() -> None:
    with pytest.raises(ValueError, match="'pycocotools' or 'faster-coco-eval', not 'lvis'"):
        evaluate_detections(*perfect(), engine="lvis")


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=5), st.integers(0, 2**31))
def test_exact_detections_score_one(counts: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    outputs = []
    for count in counts:
        corners = torch.from_numpy(random.integers(0, 400, (count, 2))).float()
        sizes = torch.from_numpy(random.integers(10, 90, (count, 2))).float()
        outputs.append(
            {
                "boxes": torch.cat([corners, corners + sizes], dim=1),
                "scores": torch.from_numpy(random.uniform(0.1, 1, count)),
                "labels": torch.from_numpy(random.integers(0, 2, count)),
            }
        )
    found = to_coco(range(len(counts)), outputs, category_ids=[0, "last"])
    truth = {
        "images": [{"id": number} for number in range(len(counts))],
        "categories": [{"id": 0}, {"id": "last"}],
        "annotations": found,
    }
    numbers = evaluate_detections(truth, found)
    assert numbers["AP"] == (pytest.approx(1) if sum(counts) else -1)


def test_to_coco() -> None:
    output = {
        "boxes": torch.tensor([[1.0, 2.0, 4.0, 6.0], [0.5, 0.0, 1.0, 2.0]], requires_grad=True),
        "scores": torch.tensor([0.5, 0.25]),
        "labels": torch.tensor([1, 0]),
    }
    empty = {name: value[:0] for name, value in output.items()}
    found = to_coco(["a", "b"], [empty, output], category_ids=[7, 90])
    assert found == [
        {"image_id": "b", "category_id": 90, "bbox": [1, 2, 3, 4], "score": 0.5},
        {"image_id": "b", "category_id": 7, "bbox": [0.5, 0, 0.5, 2], "score": 0.25},
    ]
    json.dumps(found)


def test_table() -> None:
    numbers = dict.fromkeys(METRICS, 0.12345) | {"APs": -1.0}
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table(numbers, title="after 10 [steps]"))
    text = console.export_text()
    assert "after 10 [steps]" in text
    assert text.count("12.35") + text.count("12.34") == 11
    assert "no objects" in text
