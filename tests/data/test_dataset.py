"""The dataset: targets, ground truth, fingerprint, subsets."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from breaking import good
from hypothesis import given
from hypothesis import strategies as st
from torchvision import tv_tensors

from sssd.data import DataError, DetectionDataset, read_coco
from sssd.data.boxes import BoxRow, BoxTable, clip_to_image


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    return good(tmp_path)


def read(document: dict[str, Any], folder: Path) -> DetectionDataset:
    path = folder / "instances_train.json"
    path.write_text(json.dumps(document))
    return read_coco(path, folder / "train")


def test_targets_are_what_transforms_want(document: dict, tmp_path: Path) -> None:
    image, target = read(document, tmp_path)[1]
    assert isinstance(image, tv_tensors.Image)
    assert image.dtype == torch.uint8
    boxes = target["boxes"]
    assert isinstance(boxes, tv_tensors.BoundingBoxes)
    assert boxes.format == tv_tensors.BoundingBoxFormat.XYXY
    assert boxes.canvas_size == (48, 64)
    assert boxes.dtype == torch.float32
    assert boxes.tolist() == [[0, 0, 64, 48], [1.5, 2.5, 4.5, 6.5]]
    assert target["labels"].dtype == torch.int64


def test_integer_boxes_become_floats(document: dict, tmp_path: Path) -> None:
    """Of integers, transforms would round a resized box to whole pixels."""
    document["annotations"][2]["bbox"] = [1, 2, 3, 4]
    assert read(document, tmp_path)[1][1]["boxes"].dtype == torch.float32


def test_an_image_without_boxes_keeps_its_fields(document: dict, tmp_path: Path) -> None:
    document["annotations"] = []
    dataset = read(document, tmp_path)
    assert len(dataset) == 2
    target = dataset[0][1]
    assert target["boxes"].shape == (0, 4)
    assert target["labels"].shape == (0,)
    assert target["labels"].dtype == torch.int64


def test_crowds_are_for_evaluation_only(document: dict, tmp_path: Path) -> None:
    document["annotations"][1]["iscrowd"] = 1
    dataset = read(document, tmp_path)
    assert dataset[1][1]["labels"].tolist() == [0]
    assert [record["iscrowd"] for record in dataset.ground_truth()["annotations"]] == [0, 1, 0]


def test_boxes_over_the_edge_are_cut_for_training_only(document: dict, tmp_path: Path) -> None:
    document["annotations"][2]["bbox"] = [60, -3, 10, 10]
    dataset = read(document, tmp_path)
    assert dataset[1][1]["boxes"][1].tolist() == [60, 0, 64, 7]
    assert dataset.ground_truth()["annotations"][2]["bbox"] == [60, -3, 10, 10]


def test_ground_truth_has_areas(document: dict, tmp_path: Path) -> None:
    document["annotations"][0]["area"] = 123.5
    areas = [record["area"] for record in read(document, tmp_path).ground_truth()["annotations"]]
    assert areas == [123.5, 64 * 48, 12]


@pytest.mark.parametrize("harm", ["delete", "truncate", "resize"])
def test_an_unusable_image_is_named(harm: str, document: dict, tmp_path: Path) -> None:
    path = tmp_path / "train" / "one.jpg"
    dataset = read(document, tmp_path)
    if harm == "delete":
        path.unlink()
    elif harm == "truncate":
        path.write_bytes(path.read_bytes()[:-300])
    else:
        dataset.sizes[0] = (65, 48)
    with pytest.raises(DataError, match=r"one\.jpg"):
        dataset[0]


def test_fingerprint_sees_every_change_but_not_the_place(document: dict, tmp_path: Path) -> None:
    first = read(document, tmp_path).fingerprint
    moved = tmp_path / "moved"
    assert read(good(moved), moved).fingerprint == first
    found = {first}
    changes: list[Any] = [
        lambda record: record["annotations"][0]["bbox"].__setitem__(0, 4.5),
        lambda record: record["annotations"][0].update(category_id=7),
        lambda record: record["annotations"][0].update(iscrowd=1),
        lambda record: record["annotations"][0].update(area=5),
        lambda record: record["annotations"].pop(),
        lambda record: record["categories"][0].update(name="lynx"),
        lambda record: record["images"][0].update(file_name="two.png"),
        lambda record: record["images"].reverse(),
    ]
    for change in changes:
        changed = json.loads(json.dumps(document))
        change(changed)
        found.add(read(changed, tmp_path).fingerprint)
    assert len(found) == 1 + len(changes)


def test_subset(document: dict, tmp_path: Path) -> None:
    dataset = read(document, tmp_path)
    subset = dataset.subset([1])
    assert len(subset) == 1
    assert subset.image_ids == [2]
    torch.testing.assert_close(subset[0][1]["boxes"], dataset[1][1]["boxes"])
    swapped = dataset.subset([1, 0])
    assert swapped.image_ids == [2, 1]
    assert [len(swapped.targets(index)[1]) for index in range(2)] == [2, 1]
    assert swapped.subset([1, 0]).fingerprint == dataset.fingerprint


def test_it_can_be_sent_to_another_process(document: dict, tmp_path: Path) -> None:
    dataset = read(document, tmp_path)
    assert pickle.loads(pickle.dumps(dataset)).fingerprint == dataset.fingerprint


def test_two_thousand_boxes_in_one_image(document: dict, tmp_path: Path) -> None:
    document["annotations"] = [
        {"id": key, "image_id": 1, "category_id": 7, "bbox": [key % 50, key % 40, 9, 7]}
        for key in range(1, 2001)
    ]
    assert read(document, tmp_path)[0][1]["boxes"].shape == (2000, 4)


def test_boxes_are_sorted_by_image() -> None:
    rows = [BoxRow(2, (0, 0, 1, 1), 0, 10), BoxRow(0, (0, 0, 2, 2), 1, 11, True, 3.0)]
    table = BoxTable.from_rows(rows)
    assert table.image_index.tolist() == [0, 2]
    assert table.records.tolist() == [11, 10]
    assert table.areas.tolist() == [3.0, 1.0]
    assert table.crowd.tolist() == [True, False]
    assert len(BoxTable.from_rows([])) == 0
    assert BoxTable.from_rows([]).xywh.shape == (0, 4)


finite = st.floats(-100, 200, width=32)


@given(st.lists(st.tuples(finite, finite, finite, finite), max_size=20))
def test_clipped_boxes_lie_in_the_image(boxes: list[tuple[float, ...]]) -> None:
    clipped = clip_to_image(np.array(boxes).reshape(-1, 4), np.array([64, 48]))
    assert clipped.shape == (len(boxes), 4)
    assert (clipped >= 0).all()
    assert (clipped <= np.array([64, 48, 64, 48])).all()


def test_an_image_counted_from_the_end_has_its_own_boxes(document: dict, tmp_path: Path) -> None:
    dataset = read(document, tmp_path)
    for index in range(len(dataset)):
        (_, own), (_, same) = dataset[index], dataset[index - len(dataset)]
        assert own["image_id"] == same["image_id"]
        assert torch.equal(own["boxes"], same["boxes"])
    with pytest.raises(IndexError):
        dataset.targets(len(dataset))


def test_a_subset_takes_rows_or_a_mask(document: dict, tmp_path: Path) -> None:
    dataset = read(document, tmp_path)
    mask = np.arange(len(dataset)) > 0
    kept = dataset.subset(mask)
    assert kept.image_ids == dataset.image_ids[1:]
    assert kept.fingerprint == dataset.subset(np.flatnonzero(mask)).fingerprint
    assert dataset.subset([-1]).image_ids == dataset.image_ids[-1:]
    with pytest.raises(ValueError, match="an image comes more than once"):
        dataset.subset([0, 0])
    with pytest.raises(IndexError):
        dataset.subset([0.5])
