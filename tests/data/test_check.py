"""Every fault of the corpus is named with file and record, and nothing else is."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from breaking import Broken, good
from broken_files import ERRORS, NOT_COCO, NOTES

from sssd.data import DataError, check, read_coco, read_dataset, read_voc
from sssd.data.__main__ import main

pytestmark = pytest.mark.filterwarnings("ignore:.*bad records are left out")


def write(document: dict, folder: Path) -> Path:
    path = folder / "annotations" / "instances_train.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("case", ERRORS, ids=lambda case: case.name)
def test_errors_are_named_and_dropped(case: Broken, tmp_path: Path) -> None:
    report = check(case.write(tmp_path))
    assert [str(fault) for fault in report.notes] == []
    (fault,) = report.errors
    assert case.expected in str(fault)
    assert f"error: {fault}" in list(report.lines())

    with pytest.raises(DataError, match=r"--data\.on-bad-data drop") as raised:
        report.resolve("raise")
    assert case.expected in str(raised.value)

    dataset = report.resolve("drop")
    assert (len(dataset), len(dataset.boxes)) == (case.images, case.boxes)
    assert check(dataset).faults == []
    assert sum(len(target["labels"]) for _, target in map(dataset.__getitem__, range(len(dataset))))


@pytest.mark.parametrize("case", NOTES, ids=lambda case: case.name)
def test_notes_stop_nothing(case: Broken, tmp_path: Path) -> None:
    report = check(case.write(tmp_path), decode=True)
    assert [str(fault) for fault in report.errors] == []
    (fault,) = report.notes
    assert case.expected in str(fault)
    dataset = report.resolve("raise")
    assert (len(dataset), len(dataset.boxes)) == (case.images, case.boxes)
    for index in range(len(dataset)):
        image, target = dataset[index]
        assert image.shape[0] == 3
        assert (target["boxes"][:, 2:] <= image.new_tensor(image.shape[:0:-1])).all()


@pytest.mark.parametrize("content", NOT_COCO.values(), ids=NOT_COCO.keys())
def test_a_file_that_is_not_coco(content: tuple[str, str], tmp_path: Path) -> None:
    text, expected = content
    path = tmp_path / "instances_train.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError) as raised:
        read_coco(path, tmp_path)
    assert str(path) in str(raised.value)
    assert expected in str(raised.value)


def test_a_good_data_set_has_no_faults(tmp_path: Path) -> None:
    report = check(write(good(tmp_path), tmp_path), decode=True)
    assert report.faults == []
    assert report.resolve("raise") is report.dataset
    assert report.sizes() == {"small": 2, "medium": 1, "large": 0}
    assert "2 images (0 without objects), 3 objects, 0 crowd regions" in report.summary()


def test_damage_within_a_file_is_found_by_decoding(tmp_path: Path) -> None:
    document = good(tmp_path)
    path = tmp_path / "train" / "one.jpg"
    content = bytearray(path.read_bytes())
    huffman_table = content.index(b"\xff\xc4")
    content[huffman_table + 5 : huffman_table + 21] = b"\xff" * 16
    path.write_bytes(content)
    json_path = write(document, tmp_path)
    assert check(json_path).errors == []
    (fault,) = check(json_path, decode=True).errors
    assert (fault.kind, fault.record) == ("unreadable image", "image 1")


def test_bytes_after_the_end_of_a_jpeg_are_no_fault(tmp_path: Path) -> None:
    document = good(tmp_path)
    with open(tmp_path / "train" / "one.jpg", "ab") as file:
        file.write(b"camera maker's note")
    assert check(write(document, tmp_path)).faults == []


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    path = write(good(tmp_path), tmp_path)
    for name in ("one.jpg", "two.png"):
        (tmp_path / "train" / name).unlink()
    with pytest.raises(DataError, match=r"its images were not found in .*--data\.train-images"):
        check(path)
    with pytest.raises(DataError, match="none of its 2 images can be used"):
        check(path, tmp_path / "train").resolve("drop")


def test_what_drop_leaves_out_is_counted(tmp_path: Path) -> None:
    document = good(tmp_path)
    (tmp_path / "train" / "one.jpg").unlink()  # with one object
    document["annotations"][2]["bbox"] = [1, 1, 0, 5]
    document["images"].append({"id": 3})
    report = check(write(document, tmp_path))
    message = "leaves out 2 of 3 images and 2 of 3 known objects (1 in those images)"
    assert message in report.summary()
    with pytest.raises(DataError) as raised:
        report.resolve("raise")
    assert message in str(raised.value)
    assert (len(report.resolve("drop")), len(report.resolve("drop").boxes)) == (1, 1)


def test_long_lists_are_cut(tmp_path: Path) -> None:
    document = good(tmp_path)
    document["annotations"] += [
        {"id": 100 + key, "image_id": 1, "category_id": 1, "bbox": [1, 1, 0, 0]} for key in range(8)
    ]
    report = check(write(document, tmp_path))
    assert "error: ... and 3 more of degenerate box" in list(report.lines())
    assert len(list(report.lines(None))) == 8
    with pytest.raises(DataError, match=r"8 bad records \(8 degenerate box\)"):
        report.resolve("raise")


def test_resolve_refuses_another_word(tmp_path: Path) -> None:
    report = check(write(good(tmp_path), tmp_path))
    with pytest.raises(ValueError, match="'raise' or 'drop', not 'skip'"):
        report.resolve("skip")  # type: ignore[arg-type]


def test_a_path_that_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_dataset(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"neither a COCO json, or a folder .*it holds nothing"):
        read_dataset(tmp_path)
    (tmp_path / "a.json").write_text("{}")
    for kind in ("voc", "yolo"):
        with pytest.raises(DataError, match=f"a json file is of the format coco, not {kind}"):
            read_dataset(tmp_path / "a.json", format=kind)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(good(tmp_path), tmp_path)
    assert main(["check", str(path)]) == 0
    assert "cat" in capsys.readouterr().out
    (tmp_path / "train" / "one.jpg").unlink()
    listed = tmp_path / "new" / "faults.json"
    assert main(["check", str(path), "--json", str(listed)]) == 1
    assert "error: " in capsys.readouterr().out
    assert json.loads(listed.read_text())["faults"][0]["kind"] == "missing image"
    assert main(["check", str(tmp_path / "nothing.json")]) == 2
    assert main(["check", str(path), "--json", str(path)]) == 2  # the data
    with pytest.raises(SystemExit):
        main(["check", str(path), "--pixel-range", "1", "0"])
    assert "nothing.json: this file or folder does not exist" in capsys.readouterr().err


def test_data_without_objects_are_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training refuses them."""
    path = write({**good(tmp_path), "annotations": []}, tmp_path)
    listed = tmp_path / "new" / "faults.json"
    assert main(["check", str(path), "--json", str(listed)]) == 1
    assert "error: " + f"{path}: no objects: none in 2 images" in capsys.readouterr().out
    assert "no objects" in [fault["kind"] for fault in json.loads(listed.read_text())["faults"]]


def test_a_wrong_environment_variable_is_told_in_a_line(tmp_path: Path) -> None:
    path = write(good(tmp_path), tmp_path)
    command = [sys.executable, "-m", "sssd.data", "check", str(path)]
    environment = {**os.environ, "SSSD_MAX_PIXELS": "abc"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    told = "error: SSSD_MAX_PIXELS is 'abc'; it must be a whole number\n"
    assert (ended.returncode, ended.stderr) == (2, told)


def test_command_runs_as_a_module(tmp_path: Path) -> None:
    path = write(good(tmp_path), tmp_path)
    command = [sys.executable, "-m", "sssd.data", "check", str(path)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "3 objects" in finished.stdout


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        (
            "train",
            "BloodImage_00343.xml: object 4: degenerate box: width or height is zero, it is",
        ),
        (
            "val",
            "BloodImage_00338.xml: object 13: degenerate box: width or height is zero, it is",
        ),
    ],
)
def test_the_degenerate_boxes_of_bccd_voc(split: str, expected: str, shared_data: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = read_voc(shared_data / "bccd_voc", split, shared_data / "bccd" / split)
        report = check(dataset)
        kept = report.resolve("raise")
    (fault,) = report.notes
    assert expected in str(fault)
    assert len(kept.boxes) == {"train": 2804, "val": 1137}[split]


@pytest.mark.parametrize(("boxes", "severity"), [(99, "error"), (100, "note")])
@pytest.mark.parametrize("slip", [[9, 9, 1.03, 0], [70, 9, 5, 4]])
def test_rare_boxes_without_area_are_slips(
    slip: list[float], boxes: int, severity: str, tmp_path: Path
) -> None:
    """Annotation 918 of COCO's train2017 is 1.03 x 0.0; where many are so, the file is wrong."""
    document = good(tmp_path)
    document["annotations"] = [
        {"id": key, "image_id": 1, "category_id": 1, "bbox": [key % 60, key // 60, 2, 2]}
        for key in range(1, boxes)
    ] + [{"id": 918, "image_id": 2, "category_id": 1, "bbox": slip}]
    report = check(write(document, tmp_path))
    (fault,) = [fault for fault in report.faults if fault.record == "annotation 918"]
    assert fault.severity == severity
    if severity == "note":
        assert ", it is left out: x " in fault.message
        assert len(report.resolve("raise").boxes) == boxes - 1
    else:
        with pytest.raises(DataError, match="annotation 918"):
            report.resolve("raise")


def test_images_of_lvis_are_named_by_their_url(tmp_path: Path) -> None:
    document = good(tmp_path)
    for record in document["images"]:
        name = record.pop("file_name")
        record["coco_url"] = f"http://images.cocodataset.org/train/{name}"
    report = check(write(document, tmp_path))
    assert [fault for fault in report.faults if fault.severity == "error"] == []
    assert [Path(path).parent.name for path in report.dataset.image_paths] == ["train", "train"]


def test_real_data_are_clean(shared_data: Path) -> None:
    coco = shared_data / "coco_small" / "annotations" / "instances_train2017.json"
    report = check(coco, decode=True)
    assert report.errors == []
    assert len(report.dataset) == 120
    assert report.dataset.boxes.crowd.sum() == 11
