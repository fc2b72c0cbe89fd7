"""Records as people's tools write them: read rightly, or refused in one line with a way out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as masks
from two_images import (
    CAT,
    DOG,
    FLAT,
    NAMES,
    PHOTO,
    YOLO_SPLIT,
    coco,
    write,
)

from sssd.data import DataError, read_dataset, read_yolo

pytestmark = pytest.mark.filterwarnings("ignore:.*bad records are left out")
RLE = masks.encode(np.asfortranarray(np.pad(np.ones((24, 32), np.uint8), ((12, 12), (8, 24)))))
RUNS = [8 * 48 + 12, *[24, 24] * 31, 24, 12 + 24 * 48]  # column by column


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("names: {0: cat, '1': dog}", ["cat", "dog"]),
        ("names: {'1': dog, '0': cat}\nnc: 2", ["cat", "dog"]),
        ("names: [yes, no]", ["yes", "no"]),  # no truth values
        ("names: [1, 2.0]", ["1", "2.0"]),
        ("names: thing\nnc: 1", ["thing"]),
        ("nc: 2", ["class_0", "class_1"]),
        ("names: {0: cat, 2: dog}", "names must be numbered from 0 without a gap: 1 has none"),
        ("names: {cat: 0, dog: 1}", "names must be numbered from 0"),
        ("names: cat, dog", "names must be a list of the classes, not 'cat, dog'"),
        ("names: 2", "names must be a list of the classes, not '2'"),
        ("names: [cat, [dog]]", r"names must be a list of the classes; \[\['dog'\]\] is not"),
        ("names: [cat, dog]\nnc: 3", "nc is 3, but names has 2"),
        ("names: [cat, dog]\nnc: many", "nc must be the number of classes, not 'many'"),
        ("names: [cat, dog]\nkpt_shape: 17", r"kpt_shape must be \[POINTS, VALUES\]"),
        ("other: 1", r"no class names; write them, one per line, to .*classes\.txt"),
    ],
)
def test_names_of_a_data_yaml(text: str, names: list[str] | str, tmp_path: Path) -> None:
    files = {
        "labels/train/a.txt": "0 0.5 0.5 0.5 0.5\n",
        "data.yaml": f"train: images/train\n{text}\n",
    }
    write(tmp_path, {**YOLO_SPLIT, **files})
    if isinstance(names, str):
        with pytest.raises(DataError, match=rf"data\.yaml: {names}"):
            read_dataset(tmp_path / "data.yaml")
    else:
        assert read_dataset(tmp_path / "data.yaml").classes == names


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("1 0.3 0.4 0.4 0.4 0.3 0.3", "can be a box and more columns, or a polygon"),
        ("1 0.3 0.4 0.4 0.4 0.3 0.3 2 0.1 0.1 0", [6.4, 9.6, 32, 28.8]),
        ("1 0.3 0.4 0.4 0.4 0.9 5", [6.4, 9.6, 32, 28.8]),  # score and track
        ("1 0.3 0.4 0.4 0.4 0.9", [6.4, 9.6, 32, 28.8]),
        ("1 17 0.3 0.4 0.4 0.4", "incomplete annotation"),  # the track before the box
        ("1 0.1 0.25 0.5 0.25 0.5 0.75", [6.4, 12, 32, 36]),
        ("1 0.1 0.25 0.5 0.25 0.5 7.75", "incomplete annotation"),
        ("1 10 20 30 40", "incomplete annotation"),  # pixels
        ("1,0.3,0.4,0.4,0.4", "incomplete annotation"),
    ],
)
def test_columns_of_a_label_file(line: str, expected: Any, tmp_path: Path) -> None:
    write(tmp_path, {"images/a.jpg": PHOTO, "labels/a.txt": line, "classes.txt": NAMES})
    if isinstance(expected, list):
        np.testing.assert_allclose(read_yolo(tmp_path)[0][1]["boxes"], [expected], rtol=1e-6)
    elif expected.startswith("can be"):
        with pytest.raises(DataError, match=rf"a\.txt: line 1: .*{expected}"):
            read_yolo(tmp_path)
    else:
        assert [fault.kind for fault in read_yolo(tmp_path).faults] == [expected]


def test_kpt_shape_counts_the_columns(tmp_path: Path) -> None:
    lines = "1 0.3 0.4 0.4 0.4 0.3 0.3\n1 0.3 0.4 0.4 0.4\n1 0.3 0.4 0.4 0.4 0.1 0.1 0.2 0.2\n"
    yaml = "train: images\nkpt_shape: [1, 2]\nnames: [cat, dog]\n"
    write(tmp_path, {"images/a.jpg": PHOTO, "labels/a.txt": lines, "data.yaml": yaml})
    dataset = read_yolo(tmp_path)
    np.testing.assert_allclose(dataset[0][1]["boxes"], [[6.4, 9.6, 32, 28.8]] * 2, rtol=1e-6)
    (fault, note) = dataset.faults
    assert fault.record == "line 3"
    assert "neither a box in fractions of the image, 2 values of keypoints," in fault.message
    assert note.kind == "more columns"


MASKS: list[tuple[Any, Any]] = [
    ([[8, 12, 40, 12, 40, 36, 8, 36]], DOG),
    ([[8, 12, 20, 12, 20, 36], [30, 20, 40, 20, 40, 30]], DOG),
    ({"size": [48, 64], "counts": RLE["counts"].decode()}, DOG),
    ({"size": [48, 64], "counts": RUNS}, DOG),
    ({"size": [48, 64], "counts": RUNS[:-1]}, None),
    ({"size": [64, 48], "counts": RUNS}, None),
    ({"size": [48, 64], "counts": RLE["counts"].decode()[:-1] + "o"}, None),
    ([[8, 12, 40]], None),
    ([], None),
]


@pytest.mark.parametrize(("mask", "box"), MASKS)
@pytest.mark.parametrize("bbox", [None, []])
def test_a_mask_has_a_box(mask: Any, box: Any, bbox: Any, tmp_path: Path) -> None:
    document = coco(("a.jpg", "dog"), segmentation=mask, bbox=bbox)
    write(tmp_path, {"a.jpg": PHOTO, "x.json": document})
    dataset = read_dataset(tmp_path / "x.json")
    if box:
        assert dataset[0][1]["boxes"].tolist() == [box]
    else:
        assert [fault.kind for fault in dataset.faults] == ["incomplete annotation"]


@pytest.mark.parametrize(
    ("values", "crowd", "area"),
    [
        ({"iscrowd": "0"}, False, 768),
        ({"iscrowd": "1"}, True, 768),
        ({"iscrowd": 0.0, "area": 0}, False, 768),
        ({"iscrowd": None, "area": "700"}, False, 768),
        ({"ignore": 1, "area": 700}, True, 700),
        ({"ignore": 0, "area": -3}, False, 768),
        ({"iscrowd": True, "area": 10**400}, True, 768),
        ({"iscrowd": "crowd"}, None, None),
        ({"iscrowd": 2}, None, None),
    ],
)
def test_flags_and_areas(values: dict, crowd: Any, area: Any, tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": PHOTO, "x.json": coco(("a.jpg", "dog"), **values)})
    dataset = read_dataset(tmp_path / "x.json")
    records = [(bool(r["iscrowd"]), r["area"]) for r in dataset.ground_truth()["annotations"]]
    assert records == ([] if crowd is None else [(crowd, area)])
    assert len(dataset.faults) == (crowd is None)


def _fractions(document: dict) -> None:
    for record in document["annotations"]:
        record["bbox"] = [0.1, 0.2, 0.5, 0.5]


def _corners(document: dict) -> None:
    document["annotations"] = [
        {**document["annotations"][0], "id": n + 1, "bbox": [20, 10, 60, 40]} for n in range(4)
    ]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_fractions, "fractions of the image; multiply"),
        (_corners, "look like x1, y1, x2, y2"),
    ],
)
def test_boxes_in_other_units(harm: Callable[[dict], None], message: str, tmp_path: Path) -> None:
    document = coco(("a.jpg", "dog"), ("b.jpg", "cat"))
    harm(document)
    write(tmp_path, {**FLAT, "x.json": document})
    with pytest.raises(DataError, match=rf"x\.json: .*{message}"):
        read_dataset(tmp_path / "x.json")


def test_ids_beyond_64_bits(tmp_path: Path) -> None:
    document = coco(("a.jpg", "dog"), ("b.jpg", "cat"))
    document["images"][0]["id"] = document["annotations"][0]["image_id"] = 2**70
    document["annotations"][1]["id"] = 2**80
    document["categories"][0]["id"] = document["annotations"][1]["category_id"] = 2**90
    write(tmp_path, {**FLAT, "x.json": document})
    dataset = read_dataset(tmp_path / "x.json")
    assert dataset[0][1]["boxes"].tolist() == [CAT]
    assert [str(fault) for fault in dataset.faults if fault.kind == "incomplete image"] == [
        f"{tmp_path}/x.json: image {2**70}: incomplete image: its id does not fit into 64 bits; "
        "use a smaller number or a string"
    ]
