"""A validation set out of the training set: the same every time, every class on both sides."""

import dataclasses
import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from two_images import CAT_LINE, DOG_LINE, PHOTO, coco, write, xml

from sssd.data import DataError, DetectionDataset
from sssd.data.build import DataConfig, build_datasets, build_validation_set
from sssd.engine.runs import Run, evaluation_data

NAMES = [f"{number:02}" for number in range(40)]
KINDS = ["dog" if number % 2 else "cat" for number in range(40)]


def coco_set(root: Path, names: list[str]) -> Path:
    document = coco(*((f"{n}.jpg", kind) for n, kind in zip(names, KINDS, strict=False)))
    write(root, {**{f"{n}.jpg": PHOTO for n in names}, "all.json": document})
    return root / "all.json"


def voc_set(root: Path, names: list[str]) -> Path:
    xmls = {
        f"Annotations/{n}.xml": xml(kind, f"{n}.jpg") for n, kind in zip(names, KINDS, strict=False)
    }
    return write(root, {**{f"JPEGImages/{n}.jpg": PHOTO for n in names}, **xmls})


def yolo_set(root: Path, names: list[str]) -> Path:
    lines = [DOG_LINE if kind == "dog" else CAT_LINE for kind in KINDS]
    labels = {f"labels/{n}.txt": line for n, line in zip(names, lines, strict=False)}
    images = {f"images/{n}.jpg": PHOTO for n in names}
    return write(root, {**images, **labels, "classes.txt": "cat\ndog\n"})


def names_of(dataset: DetectionDataset) -> set[str]:
    return {Path(path).stem for path in dataset.image_paths}


@pytest.mark.parametrize("make", [coco_set, voc_set, yolo_set])
def test_a_split_stays_where_data_move_and_grow(make, tmp_path: Path) -> None:
    path = make(tmp_path / "a", NAMES[:20])
    config, console = DataConfig(train=path, val_share=0.3), Console(file=io.StringIO(), width=500)
    train, held = build_datasets(config, console)
    assert train.classes == held.classes == ["cat", "dog"]
    assert not names_of(train) & names_of(held)
    assert names_of(train) | names_of(held) == set(NAMES[:20])
    share = f"{len(held)} of 20 images ({len(held) / 20:.1%})"
    line = f"--data.val-share 0.3: {share} are held out for validation"
    assert line in console.file.getvalue()
    assert build_validation_set(config).fingerprint == held.fingerprint
    later = make(tmp_path / "b", NAMES)
    config = dataclasses.replace(config, train=later)
    train_later, held_later = build_datasets(config)
    assert names_of(train) <= names_of(train_later)
    assert names_of(held) <= names_of(held_later)
    assert 4 < len(held_later) < 20


def test_every_class_is_on_both_sides_or_named(tmp_path: Path) -> None:
    path = coco_set(tmp_path, NAMES)
    document = json.loads(path.read_text())
    names = [f"kind{k}" for k in range(13)]
    document["categories"] = [{"id": k, "name": name} for k, name in enumerate(names)]
    for number, annotation in enumerate(document["annotations"]):  # three of each but the last
        annotation["category_id"] = number // 3 if number < 36 else 12
    document["annotations"] = document["annotations"][:37]
    path.write_text(json.dumps(document))
    for share in (0.05, 0.5, 0.95):
        console = Console(file=io.StringIO(), width=500)
        train, held = build_datasets(DataConfig(train=path, val_share=share), console)
        assert set(train.boxes.labels) == set(range(13))
        assert set(held.boxes.labels) == set(range(12))
        assert (
            "note: these classes have too few images to be validated on as well: kind12\n"
            in console.file.getvalue()
        )


def test_what_makes_no_split_is_refused(tmp_path: Path) -> None:
    path = coco_set(tmp_path, NAMES[:1])
    for share in (0.01, 0.99):
        with pytest.raises(
            DataError, match=r"--data\.val-share 0\.\d+: of the 1 images .*none would be"
        ):
            build_datasets(DataConfig(train=path, val_share=share))
    for share in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(
            ValueError, match=r"--data\.val-share is .*; it must lie between 0 and 1, such as"
        ):
            DataConfig(val_share=share)
    for given in ({"val": path}, {"val_images": tmp_path}):
        with pytest.raises(ValueError, match=r"--data\.val-share 0\.2 takes .*leave one of them"):
            DataConfig(train=path, val_share=0.2, **given)
    with pytest.raises(
        DataError, match=r"--data\.val is required.*, or --data\.val-share 0\.2 to hold out"
    ):
        build_datasets(DataConfig(train=path))


def test_a_run_is_evaluated_on_its_own_share_or_on_what_is_named(tmp_path: Path) -> None:
    path = yolo_set(tmp_path / "a", NAMES[:20])
    shutil.copytree(path / "images", path / "images" / "test")
    config = DataConfig(train=path, val_share=0.2)
    run = Run(tmp_path, None, [], [], None, config, 1)  # type: ignore[arg-type]
    assert evaluation_data(run) == config
    other = evaluation_data(run, val=tmp_path / "b.json")
    assert (other.val, other.val_share) == (tmp_path / "b.json", None)
    part = evaluation_data(run, val_split="test")
    assert (part.val, part.val_split, part.val_share) == (path, "test", None)
    for name in ("val", "train", "valid"):  # data without splits would be taken whole
        with pytest.raises(
            ValueError, match=rf"--data\.val-split is '{name}'.* leave the flag out"
        ):
            evaluation_data(run, val_split=name)
