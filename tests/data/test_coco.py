"""COCO json files with ids of any kind, and where their images are looked for."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from breaking import good

from sssd.data import DataError, check, read_coco


def write(folder: Path, document: dict[str, Any], name: str = "instances_train.json") -> Path:
    path = folder / "annotations" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def test_ids_are_mapped_to_classes_and_back(tmp_path: Path) -> None:
    dataset = read_coco(write(tmp_path, good(tmp_path)))
    assert dataset.classes == ["cat", "dog"]
    assert dataset.category_ids == [1, 7]
    assert dataset.num_classes == 2
    assert [dataset[index][1]["labels"].tolist() for index in range(2)] == [[0], [1, 0]]
    assert [dataset[index][1]["image_id"] for index in range(2)] == [1, 2]


def test_classes_are_in_the_order_of_their_ids(tmp_path: Path) -> None:
    """Two splits may list their categories in another order, yet label 0 must mean the same."""
    document = good(tmp_path)
    first = read_coco(write(tmp_path, document))
    document["categories"].reverse()
    second = read_coco(write(tmp_path, document))
    assert second.classes == first.classes
    assert second.fingerprint == first.fingerprint


@pytest.mark.parametrize("kind", [str, lambda key: key - 1, lambda key: key + 2**40, float])
def test_ids_of_any_kind(kind: Any, tmp_path: Path) -> None:
    document = good(tmp_path)
    for record in document["images"] + document["categories"]:
        record["id"] = kind(record["id"])
    for record in document["annotations"]:
        record["image_id"], record["category_id"] = map(
            kind, (record["image_id"], record["category_id"])
        )
    dataset = read_coco(write(tmp_path, document))
    assert dataset.faults == []
    assert dataset.image_ids == [kind(1), kind(2)]
    assert dataset.category_ids == [kind(1), kind(7)]
    image_id = dataset[1][1]["image_id"]
    assert image_id == kind(2)
    assert type(image_id) in (int, str)  # no numpy scalar: results are written as json
    truth = dataset.ground_truth()
    assert [record["image_id"] for record in truth["annotations"]] == [kind(1), kind(2), kind(2)]
    json.dumps(truth)


def test_mixed_ids_are_refused(tmp_path: Path) -> None:
    document = good(tmp_path)
    document["images"][0]["id"] = "one"
    document["annotations"][0]["image_id"] = "one"
    with pytest.raises(DataError, match="all integers or all strings"):
        read_coco(write(tmp_path, document))


def test_images_stand_beside_annotations_or_where_told(tmp_path: Path) -> None:
    document = good(tmp_path)
    path = write(tmp_path, document)
    assert read_coco(path).image_paths[0] == str(tmp_path / "train" / "one.jpg")
    beside = tmp_path / "train" / "_annotations.coco.json"
    beside.write_text(json.dumps(document))
    assert read_coco(beside).image_paths == read_coco(path).image_paths
    elsewhere = write(tmp_path, document, "boxes.json")
    with pytest.raises(
        DataError, match=r"boxes\.json: its images were not found in .*--images, in training"
    ):
        read_coco(elsewhere)
    assert read_coco(elsewhere, tmp_path / "train").image_paths == read_coco(path).image_paths
    with pytest.raises(DataError, match="nowhere: the folder of the images"):
        read_coco(path, tmp_path / "nowhere")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: the file does not exist"):
        read_coco(tmp_path / "none.json")


def test_sizes_are_read_where_the_file_leaves_them_out(tmp_path: Path) -> None:
    document = good(tmp_path)
    del document["images"][0]["width"]
    document["images"][1]["height"] = None
    dataset = read_coco(write(tmp_path, document))
    np.testing.assert_array_equal(dataset.sizes, [[64, 48], [64, 48]])


def test_bad_records_warn_once(tmp_path: Path) -> None:
    document = good(tmp_path)
    document["annotations"][2]["bbox"] = [1, 1, 0, 5]
    document["annotations"][1]["category_id"] = 99
    with pytest.warns(UserWarning, match=r"2 bad records are left out \(1 ") as caught:
        dataset = read_coco(write(tmp_path, document))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert len(dataset.boxes) == 1


def test_coco_small(shared_data: Path) -> None:
    dataset = read_coco(shared_data / "coco_small" / "annotations" / "instances_val2017.json")
    assert (len(dataset), dataset.num_classes, len(dataset.boxes)) == (66, 80, 560)
    counts = [len(dataset.targets(index)[1]) for index in range(len(dataset))]
    assert counts.count(0) == 2
    assert sum(counts) == 552  # without the 8 crowd regions
    assert sum(record["iscrowd"] for record in dataset.ground_truth()["annotations"]) == 8
    assert dataset.category_ids[-1] == 90
    image, target = dataset[0]
    assert target["boxes"].shape[1] == 4
    assert image.shape[0] == 3


@pytest.mark.filterwarnings("ignore:.*bad records are left out")
def test_records_that_no_file_or_mask_can_have_are_faults(tmp_path: Path) -> None:
    document = good(tmp_path)
    long, huge = ({**document["images"][0], "id": key} for key in (8, 9))
    long["file_name"], huge["file_name"] = f"{'x' * 300}.jpg", "x" * 5000
    large = {**document["images"][0], "id": 10, "width": 100_000, "height": 100_000}
    counts = {"size": [100_000, 100_000], "counts": [9_999_999_995, 5]}
    mask = {**document["annotations"][0], "id": 99, "image_id": 10, "segmentation": counts}
    del mask["bbox"]
    document["images"] += [long, huge, large]
    document["annotations"].append(mask)
    dataset = read_coco(write(tmp_path, document))
    assert sorted(fault.kind for fault in dataset.faults) == [
        "incomplete annotation",
        "incomplete image",
    ]
    assert "missing image" in {fault.kind for fault in check(dataset).errors}


@pytest.mark.filterwarnings("ignore:.*bad records are left out")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    document = good(tmp_path)
    pipe = tmp_path / "train" / "pipe.jpg"
    os.mkfifo(pipe)
    document["images"].append({"id": 3, "file_name": pipe.name})
    (fault,) = read_coco(write(tmp_path, document)).faults
    assert fault.kind == "unknown image size"
