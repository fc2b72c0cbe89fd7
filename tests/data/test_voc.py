"""Pascal VOC folders."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sssd.data import DataError, read_coco, read_dataset, read_voc

XML = """<annotation>
  <filename>{filename}</filename>
  {size}
  {objects}
</annotation>"""
OBJECT = """<object><name>{name}</name><difficult>1</difficult><bndbox>
<xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"""
SIZE = "<size><width>64</width><height>48</height><depth>3</depth></size>"


def write_xml(
    root: Path, stem: str, objects: list[tuple], size: str = SIZE, filename: str = ""
) -> None:
    inner = "".join(OBJECT.format(*corners, name=name) for name, *corners in objects)
    text = XML.format(filename=filename or f"{stem}.jpg", size=size, objects=inner)
    (root / "Annotations" / f"{stem}.xml").write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    for stem in ("a", "b", "c"):
        Image.new("RGB", (64, 48)).save(tmp_path / "JPEGImages" / f"{stem}.jpg")
    write_xml(tmp_path, "a", [("dog", 1, 2, 31, 42), ("cat", 5, 5, 9.5, 9)])
    write_xml(tmp_path, "b", [])
    write_xml(tmp_path, "c", [("ape", 3, 3, 64, 48)])
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("a\nb 1\n\n")
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("c\n")
    return tmp_path


def test_boxes_and_classes(root: Path) -> None:
    dataset = read_voc(root, "train")
    assert dataset.classes == ["ape", "cat", "dog"]
    assert read_voc(root, "val").classes == dataset.classes  # of all files, not of the split's
    assert dataset.category_ids == [1, 2, 3]
    assert dataset.image_ids == [1, 2]
    assert dataset[0][1]["boxes"].tolist() == [[1, 2, 31, 42], [5, 5, 9.5, 9]]
    assert dataset[0][1]["labels"].tolist() == [2, 1]
    assert dataset[1][1]["boxes"].shape == (0, 4)
    assert read_dataset(root, split="val").fingerprint == read_voc(root, "val").fingerprint


def test_without_a_list_every_file_is_read(root: Path) -> None:
    assert len(read_voc(root, None)) == 3


def test_names_and_sizes_are_taken_from_the_images_where_the_xml_is_wrong(root: Path) -> None:
    write_xml(root, "a", [("dog", 1, 2, 31, 42)], size="", filename="renamed.png")
    dataset = read_voc(root, "train")
    assert dataset.image_paths[0].endswith("a.jpg")
    np.testing.assert_array_equal(dataset.sizes[0], (64, 48))


@pytest.mark.parametrize(
    ("corners", "kind"),
    [
        ((5, 5, 5, 9), "degenerate box"),
        ((9, 5, 5, 9), "inverted box"),
        (("", 5, 5, 9), "NaN box"),
        (("left", 5, 5, 9), "NaN box"),
        ((70, 5, 75, 9), "box outside"),
    ],
)
def test_bad_boxes_are_named(corners: tuple, kind: str, root: Path) -> None:
    write_xml(root, "a", [("dog", 1, 2, 31, 42), ("dog", *corners)])
    with pytest.warns(UserWarning, match=kind):
        dataset = read_voc(root, "train")
    (fault,) = dataset.faults
    assert fault.kind == kind
    assert fault.record == "object 2"
    assert fault.file.endswith("a.xml")
    assert len(dataset.boxes) == 1


@pytest.mark.parametrize("harm", ["missing", "broken"])
def test_an_unusable_xml_leaves_its_image_out(harm: str, root: Path) -> None:
    path = root / "Annotations" / "b.xml"
    if harm == "missing":
        path.unlink()
    else:
        path.write_text("<annotation>")
    with pytest.warns(UserWarning, match="1 unusable annotation file"):
        dataset = read_voc(root, "train")
    assert len(dataset) == 1
    assert dataset.faults[0].file == str(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test"}, "no split is called 'test'; it has train, val: choose with --split"),
        (
            {"images": "nowhere"},
            "nowhere: no such folder; give the images' folder with --images",
        ),
    ],
)
def test_what_is_missing_is_named(arguments: dict, message: str, root: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_voc(root, **arguments)


def test_the_list_of_two_parts_is_offered(root: Path) -> None:
    lists = root / "ImageSets" / "Main"
    (lists / "train.txt").rename(lists / "trainval.txt")
    (lists / "val.txt").rename(lists / "test.txt")
    with pytest.raises(DataError, match="no split is called 'train'; it has test, trainval"):
        read_voc(root, "train")
    assert len(read_voc(root, "trainval")) > 0


def test_no_objects_at_all(root: Path) -> None:
    for path in (root / "Annotations").iterdir():
        write_xml(root, path.stem, [])
    with pytest.raises(DataError, match="none of its xml files has an object"):
        read_voc(root)


@pytest.mark.filterwarnings("ignore:.*bad records are left out")
@pytest.mark.parametrize("split", ["train", "val"])
def test_bccd_agrees_with_its_coco_file(split: str, shared_data: Path) -> None:
    """The json was made from the xml without its two degenerate boxes."""
    images = shared_data / "bccd" / split
    voc = read_voc(shared_data / "bccd_voc", split, images)
    path = shared_data / "bccd" / "annotations" / f"instances_{split}.json"
    coco = read_coco(path)
    assert json.loads(path.read_text())["images"][0]["file_name"].endswith(".jpg")
    of_name = {Path(name).name: index for index, name in enumerate(coco.image_paths)}
    assert len(voc) == len(coco)
    for index, name in enumerate(voc.image_paths):
        boxes, labels = voc.targets(index)
        expected, numbers = coco.targets(of_name[Path(name).name])
        np.testing.assert_array_equal(boxes, expected)
        names = [voc.classes[label] for label in labels]
        assert names == [coco.classes[label] for label in numbers]
