"""YOLO folders."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sssd.data import DataError, check, read_dataset, read_yolo


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("images/train/more", "labels/train/more"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("a.jpg", "b.png", "more/c.jpg"):
        Image.new("RGB", (80, 40)).save(tmp_path / "images" / "train" / name)
    labels = tmp_path / "labels" / "train"
    (labels / "a.txt").write_text("1 0.5 0.5 0.25 0.5\n\n0 0.1 0.2 0.2 0.4\n")
    (labels / "more" / "c.txt").write_text("0 0.1 0.2 0.5 0.9 0.3 0.1\n")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    return tmp_path


def test_boxes_and_polygons(root: Path) -> None:
    dataset = read_yolo(root)
    assert dataset.classes == ["cat", "dog"]
    assert dataset.category_ids == [0, 1]
    assert [Path(path).name for path in dataset.image_paths] == ["a.jpg", "b.png", "c.jpg"]
    np.testing.assert_allclose(dataset[0][1]["boxes"], [[30, 10, 50, 30], [0, 0, 16, 16]])
    assert dataset[0][1]["labels"].tolist() == [1, 0]
    np.testing.assert_allclose(dataset[2][1]["boxes"], [[8, 4, 40, 36]])


def test_two_images_of_one_label_file_are_told(root: Path) -> None:
    """As `sssd.predict images/train --out images/train` leaves them: its boxes are painted."""
    Image.new("RGB", (80, 40)).save(root / "images" / "train" / "a.png")
    with pytest.warns(UserWarning, match="1 shared label file"):
        dataset = read_yolo(root)
    assert [Path(path).name for path in dataset.image_paths] == ["a.jpg", "b.png", "c.jpg"]
    (fault,) = check(dataset).errors
    assert fault.kind == "shared label file"
    assert fault.file.endswith("a.png")
    assert "the label file a.txt is that of a.jpg, too" in fault.message


def test_an_image_without_labels_is_background(root: Path) -> None:
    dataset = read_yolo(root)
    assert dataset[1][1]["boxes"].shape == (0, 4)
    (fault,) = check(dataset).faults
    assert fault.kind == "image without label file"
    assert fault.file.endswith("b.txt")


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("0 0.5 0.5 0.25", "incomplete annotation"),
        ("0 0.9 0.5 0.25 0.5 0.5", "incomplete annotation"),
        ("0 0.5 0.5 0.25 wide", "incomplete annotation"),
        ("cat 0.5 0.5 0.25 0.5", "incomplete annotation"),
        ("0", "incomplete annotation"),
        ("2 0.5 0.5 0.25 0.5", "unknown category"),
        ("-1 0.5 0.5 0.25 0.5", "unknown category"),
        ("0.5 0.5 0.5 0.25 0.5", "unknown category"),
        ("nan 0.5 0.5 0.25 0.5", "unknown category"),
        ("0 0.5 0.5 nan 0.5", "NaN box"),
        ("0 0.5 0.5 0 0.5", "degenerate box"),
        ("0 0.5 0.5 -0.1 0.5", "inverted box"),
        ("0 5.5 0.5 0.1 0.5", "box outside"),
    ],
)
def test_bad_lines_are_named(line: str, kind: str, root: Path) -> None:
    path = root / "labels" / "train" / "b.txt"
    path.write_text(f"1 0.5 0.5 0.5 0.5\n{line}\n")
    with pytest.warns(UserWarning, match=kind):
        dataset = read_yolo(root)
    (fault,) = dataset.faults
    assert (fault.kind, fault.file, fault.record) == (kind, str(path), "line 2")
    assert len(dataset.boxes) == 4


def test_an_unreadable_image_is_left_out(root: Path) -> None:
    path = root / "images" / "train" / "b.png"
    path.write_text("no photograph")
    with pytest.warns(UserWarning, match="1 unreadable image"):
        dataset = read_yolo(root)
    assert len(dataset) == 2
    assert str(path) in str(dataset.faults[0])


def test_data_yaml(root: Path) -> None:
    plain = read_yolo(root)
    (root / "classes.txt").unlink()
    for names in ("[cat, dog]", "{1: dog, 0: cat}"):
        (root / "data.yaml").write_text(f"path: .\ntrain: images/train\nnames: {names}\n")
        dataset = read_dataset(root / "data.yaml")
        assert dataset.classes == ["cat", "dog"]
        assert dataset.fingerprint == plain.fingerprint
    with pytest.raises(DataError, match="no split is called 'val'; it has train"):
        read_yolo(root / "data.yaml", "val")
    (root / "data.yaml").write_text("names: [")
    with pytest.raises(DataError, match="not a yaml file"):
        read_yolo(root / "data.yaml")
    with pytest.raises(DataError, match="the file does not exist"):
        read_yolo(root / "none.yaml")


def test_what_is_missing_is_named(root: Path) -> None:
    with pytest.raises(DataError, match="no split is called 'val'; it has train"):
        read_yolo(root, "val")
    (root / "classes.txt").unlink()
    with pytest.raises(
        DataError, match=r"no class names; write them, one per line, to .*classes\.txt"
    ):
        read_yolo(root)
    with pytest.raises(DataError, match="for a YOLO data set, its data"):
        read_dataset(root, images=root / "images")


def test_a_folder_that_cannot_be_listed_is_no_folder_without_images(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def refuse(folder: Path) -> object:
        if Path(folder).name == "more":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"more: the folder cannot be listed: .*denied"):
        read_yolo(root)


def test_images_may_lie_as_deep_as_they_like(root: Path) -> None:
    deep = root / "images/train" / "/".join("abcdefghij")
    deep.mkdir(parents=True)
    Image.new("RGB", (80, 40)).save(deep / "d.jpg")
    assert "d.jpg" in [Path(path).name for path in read_yolo(root).image_paths]


def test_a_class_is_a_line_of_its_file(root: Path) -> None:
    (root / "classes.txt").write_text("cat\u2028tabby\r\ndog\x85\x0cx\n", encoding="utf-8")
    assert read_yolo(root).classes == ["cat\u2028tabby", "dog\x85\x0cx"]


@pytest.mark.parametrize(
    "entry", ["nc: 9999999999", "names: {9999999999: cat}", "names: {-1: cat}", "nc: 100001"]
)
def test_numbers_of_classes_that_none_has_are_refused(entry: str, root: Path) -> None:
    (root / "data.yaml").write_text(f"train: images/train\n{entry}\n")
    with pytest.raises(DataError, match=r"data\.yaml: n"):
        read_yolo(root)


def test_a_message_shows_little_of_what_is_large(root: Path) -> None:
    nested = "a: &a [x, x]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b]\nd: &d [*c, *c, *c]\n"
    (root / "data.yaml").write_text(f"{nested}train: images/train\nnames: [[*d, *d, *d]]\n")
    with pytest.raises(DataError) as error:
        read_yolo(root)
    assert len(str(error.value)) < 1000


def test_a_name_that_no_file_can_have_is_a_missing_image(root: Path) -> None:
    (root / "train.txt").write_text(f"images/train/a.jpg\nimages/train/{'x' * 300}.jpg\n")
    with pytest.warns(UserWarning, match="1 missing image"):
        dataset = read_yolo(root / "train.txt")
    assert len(dataset) == 1
