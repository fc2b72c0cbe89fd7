"""Folders as people's tools leave them: read rightly, or refused in one line with a way out."""

from pathlib import Path
from typing import Any

import pytest
from two_images import (
    DOG,
    DOG_LINE,
    FLAT,
    NAMES,
    PHOTO,
    VOC_SPLIT,
    YOLO_SPLIT,
    coco,
    write,
    xml,
)

from sssd.data import DataError, check, read_dataset, read_voc, read_yolo
from sssd.data.__main__ import main
from sssd.data.build import DataConfig, build_datasets, build_validation_set

pytestmark = pytest.mark.filterwarnings("ignore:.*bad records are left out")

VOC_CASES: dict[str, tuple[dict[str, Any], dict[str, list]]] = {
    "a name with spaces": (
        {
            "Annotations/my a.xml": xml("dog", "x.jpg"),
            "JPEGImages/my a.jpg": PHOTO,
            "ImageSets/Main/train.txt": "my a 1\n",
        },
        {"my a.jpg": [DOG]},
    ),
    "a copy whose image is gone": (
        {"a.xml": xml("dog", "a.jpg"), "a.jpg": PHOTO, "c.xml": xml("cat", "a.jpg")},
        {"a.jpg": [DOG]},
    ),
    "a copy that still names its original": (
        {"a.xml": xml("dog", "b.jpg"), "a.jpg": PHOTO, "b.jpg": PHOTO},
        {"a.jpg": [DOG]},
    ),
    "a renamed xml": ({"c.xml": xml("dog", "a.jpg"), "a.jpg": PHOTO}, {"a.jpg": [DOG]}),
    "the ending in the xml's name": (
        {"a.jpg.xml": xml("dog", ""), "a.jpg": PHOTO},
        {"a.jpg": [DOG]},
    ),
    "two images of one stem": (
        {
            "a.xml": xml("dog", "a.png"),
            "a.jpg": PHOTO,
            "a.png": PHOTO,
            "b.xml": xml("cat", "?"),
            "b.jpg": PHOTO,
            "b.png": PHOTO,
        },
        {"a.png": [DOG]},
    ),
    "the same names in two folders": (
        {"1/a.xml": xml("dog", "a.jpg"), "1/a.jpg": PHOTO, "2/a.xml": xml("cat", "a.jpg")},
        {"a.jpg": [DOG]},
    ),
    "gb2312, declared": (
        {
            "a.xml": b'<?xml version="1.0" encoding="GB2312"?>'
            + xml("dog", "猫.jpg").encode("gbk"),
            "a.jpg": PHOTO,
        },
        {"a.jpg": [DOG]},
    ),
    "GBK in a path alone": (
        {"a.xml": xml("dog", "猫.jpg").encode("gbk"), "a.jpg": PHOTO},
        {"a.jpg": [DOG]},
    ),
    "UTF-16": ({"a.xml": xml("dog", "a.jpg").encode("utf-16"), "a.jpg": PHOTO}, {"a.jpg": [DOG]}),
    "a turned box": (
        {
            "a.xml": xml(
                "dog", "a.jpg", "<object><name>dog</name><robndbox><cx>3</cx></robndbox></object>"
            ),
            "a.jpg": PHOTO,
        },
        {"a.jpg": [DOG]},
    ),
}


@pytest.mark.parametrize("name", VOC_CASES)
def test_voc(name: str, tmp_path: Path) -> None:
    files, expected = VOC_CASES[name]
    dataset = read_voc(write(tmp_path, files))
    found = {
        Path(path).name: dataset.targets(index)[0].tolist()
        for index, path in enumerate(dataset.image_paths)
    }
    assert found == expected
    lost = sum(name.endswith(".xml") for name in files) - len(expected)
    assert sum(fault.kind == "missing image" for fault in dataset.faults) == lost


TEXTS: dict[str, tuple[dict[str, Any], str, list[str] | str]] = {
    "classes in GBK": (
        {"classes.txt": "猫\n狗\n".encode("gbk")},
        "",
        r"classes\.txt: .* is not UTF-8",
    ),
    "classes with a mark": ({"classes.txt": "\ufeff猫\r\n狗\r\n".encode()}, "", ["猫", "狗"]),
    "classes in UTF-16": ({"classes.txt": "猫\n狗\n".encode("utf-16")}, "", ["猫", "狗"]),
    "a gap in the classes": ({"classes.txt": "cat\n\ndog\n"}, "", r"classes\.txt: line 2 is empty"),
    "a comment in Shift_JIS": (
        {"data.yaml": "# 猫\ntrain: images\nnames: [cat, dog]".encode("shift_jis")},
        "",
        ["cat", "dog"],
    ),
    "names in Shift_JIS": (
        {"data.yaml": "train: images\nnames: [猫, 犬]".encode("shift_jis")},
        "",
        r"data\.yaml: .* is not UTF-8",
    ),
    "a label file with a mark": (
        {"classes.txt": NAMES, "labels/a.txt": "\ufeff" + DOG_LINE},
        "",
        ["cat", "dog"],
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_encodings(name: str, tmp_path: Path) -> None:
    files, path, expected = TEXTS[name]
    write(tmp_path, {"images/a.jpg": PHOTO, "labels/a.txt": DOG_LINE, **files})
    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected) as raised:
            read_dataset(tmp_path / path)
        assert "\n" not in str(raised.value)
    else:
        dataset = read_dataset(tmp_path / path)
        assert dataset.classes == expected
        assert dataset[0][1]["boxes"].tolist() == [DOG]


def test_an_xml_class_of_unknown_encoding(tmp_path: Path) -> None:
    text = xml("dog", "a.jpg").replace("<name>dog", "<name>狗").encode("gbk")
    write(tmp_path, {"a.xml": text, "a.jpg": PHOTO})
    with pytest.raises(DataError, match=r"a\.xml: .* is not UTF-8, and its encoding is unknown"):
        read_voc(tmp_path)
    write(tmp_path, {"b.xml": xml("cat", "b.jpg"), "b.jpg": PHOTO})
    (fault,) = read_voc(tmp_path).faults
    assert "save it as UTF-8" in fault.message


def test_a_label_file_without_an_image(tmp_path: Path) -> None:
    write(tmp_path, {**YOLO_SPLIT, "classes.txt": NAMES, "labels/train/c.txt": DOG_LINE})
    (fault,) = read_yolo(tmp_path).faults
    assert str(fault).endswith(
        "labels/train/c.txt: missing image: no image has the name of this label file"
    )


@pytest.mark.parametrize(
    ("files", "path", "split", "message"),
    [
        (
            YOLO_SPLIT,
            "",
            "test",
            "no split is called 'test'; it has train, val: choose with --split",
        ),
        (YOLO_SPLIT, "images/train", "train", "no data set: .*; .* is one"),
        (VOC_SPLIT, "JPEGImages", "train", "no data set: .*; .* is one"),
        (FLAT, "", "train", r"no data set: .*it holds 2 x \.jpg"),
        (
            {**YOLO_SPLIT, **VOC_SPLIT},
            "",
            "train",
            "annotations of voc and yolo; choose with --format",
        ),
        ({"pets/x.json": "[]"}, "petz", "train", "does not exist; .*pets does"),
        ({"a.zip": ""}, "a.zip", "train", "no data set; unpack it"),
        (
            {"x.json": coco(("a.jpg", "dog")), "a.jpg": PHOTO},
            "x.json",
            "test",
            "a json file is one split",
        ),
        (
            {
                "train/a.jpg": PHOTO,
                "train2/a.jpg": PHOTO,
                "train2/a.txt": DOG_LINE,
                "classes.txt": NAMES,
            },
            "",
            "val",
            "no split is called 'val'; it has train, train2",
        ),
        (
            {"a.json": coco(("a.jpg", "dog")), "b.json": coco(("a.jpg", "dog"))},
            "",
            "train",
            "give one of its json files: .*a.json, .*b.json",
        ),
        (
            {"obj.data": "names = obj.names\n", "obj.names": NAMES},
            "",
            "train",
            "it has no images",
        ),
        (
            {"train.txt": "data/a.jpg\ndata/b.jpg\n", "obj.names": NAMES},
            "train.txt",
            "train",
            "no image of it can be used; data/a.jpg does not exist",
        ),
    ],
)
def test_messages(
    files: dict,
    path: str,
    split: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(tmp_path, files)
    assert main(["check", str(tmp_path / path), "--split", split]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    with pytest.raises(DataError, match=message):
        raise DataError(error)


def test_a_set_without_objects_stops(tmp_path: Path) -> None:
    files = {**YOLO_SPLIT, "classes.txt": NAMES, "labels/train/a.txt": "", "labels/val/b.txt": ""}
    write(tmp_path, files)
    config = DataConfig(train=tmp_path, val=tmp_path)
    with pytest.raises(DataError, match=r"--data\.train: .* no objects: none in 1 images"):
        build_datasets(config)
    with pytest.raises(DataError, match=r"--data\.val: .* no objects: none"):
        build_validation_set(config)


def test_a_part_with_fewer_classes(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "train/a.xml": xml("dog", ""),
            "train/c.xml": xml("cat", ""),
            "train/a.jpg": PHOTO,
            "train/c.jpg": PHOTO,
            "valid/b.xml": xml("dog", ""),
            "valid/b.jpg": PHOTO,
        },
    )
    config = DataConfig(train=tmp_path / "train", val=tmp_path / "valid")
    _, val_set = build_datasets(config)
    assert val_set.classes == ["cat", "dog"]
    assert val_set.targets(0)[1].tolist() == [1]
    assert val_set.ground_truth()["annotations"][0]["category_id"] == 2


def test_hints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = coco(("a.jpg", "dog"), ("a.jpg", "cat"), ("b.jpg", "dog"))
    document["annotations"].append({**document["annotations"][2], "id": 9})
    write(tmp_path, {**FLAT, "x.json": document})
    notes = {(fault.kind, fault.record) for fault in check(tmp_path / "x.json").notes}
    assert notes == {("same object twice", "annotation 9"), ("one file under two ids", "image 1")}
    assert main(["check", str(tmp_path / "x.json")]) == 0
    capsys.readouterr()

    write(
        tmp_path / "voc",
        {"a.xml": xml("dog", ""), "a.jpg": PHOTO, "b.jpg": PHOTO, "c.heic": b"\0\0\0\x18ftypheic"},
    )
    notes = {(f.kind, Path(f.file).name) for f in check(tmp_path / "voc").notes}
    assert notes == {("image without xml", "b.jpg"), ("image without xml", "c.heic")}
    write(
        tmp_path / "yolo",
        {"a.txt": DOG_LINE, "a.heic": b"\0\0\0\x18ftypheic", "classes.txt": NAMES, "b.jpg": PHOTO},
    )
    report = check(tmp_path / "yolo")
    assert "convert it to JPEG" in report.errors[0].message
    assert [note.kind for note in report.notes] == ["image without label file"]


def test_names_that_differ_in_little(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"a.xml": xml("Dog", ""), "a.jpg": PHOTO, "b.xml": xml("hot dog", ""), "b.jpg": PHOTO}
        | {"c.xml": xml("dog", ""), "c.jpg": PHOTO, "d.xml": xml("hotdog", ""), "d.jpg": PHOTO},
    )
    assert [str(note) for note in check(tmp_path).notes] == [
        f"{tmp_path}: category Dog: category names alike: the same as 'dog' but for "
        "capitals and spaces; they are 2 categories",
        f"{tmp_path}: category hot dog: category names alike: the same as 'hotdog' but "
        "for capitals and spaces; they are 2 categories",
    ]
