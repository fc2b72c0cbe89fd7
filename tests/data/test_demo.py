"""The demo data: real digits on real photographs, the same for everybody."""

import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from sssd.data import check, demo_data, read_coco
from sssd.data.demo import DemoData, _Painter

SMALL = {"image_size": 160, "train_scenes": 40, "val_scenes": 10}


def make(root: Path) -> DemoData:
    return demo_data(root, **SMALL)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> DemoData:
    return make(tmp_path_factory.mktemp("cache"))


def test_it_is_a_clean_coco_data_set(paths: DemoData) -> None:
    for json_path, images, count in (
        (paths.train_json, paths.train_images, 40),
        (paths.val_json, paths.val_images, 10),
    ):
        report = check(read_coco(json_path, images), decode=True)
        assert report.faults == []
        assert len(report.dataset) == count
        assert report.dataset.classes == [str(digit) for digit in range(10)]
        assert (report.dataset.sizes == 160).all()


def test_scenes_hold_one_to_eight_digits_of_every_size(paths: DemoData) -> None:
    dataset = read_coco(paths.train_json)
    counts = np.bincount(dataset.boxes.image_index, minlength=len(dataset))
    assert counts.min() >= 1
    assert counts.max() <= 8
    sizes = check(dataset).sizes()
    total = sum(sizes.values())
    assert all(count > 0.05 * total for count in sizes.values()), sizes


def test_every_scene_holds_a_digit() -> None:
    """Also where a tall one is larger than the scene."""
    digits = load_digits()
    ones = digits.images[digits.target == 1]
    wall = Image.new("RGB", (100, 100))
    painter = _Painter(128, [wall], ones, np.ones(len(ones), int))
    counts = [len(painter.scene((0, number))[1]) for number in range(300)]
    assert min(counts) >= 1
    assert max(counts) <= 8


def test_boxes_hardly_overlap(paths: DemoData) -> None:
    dataset = read_coco(paths.train_json)
    for index in range(len(dataset)):
        boxes, _ = dataset.targets(index)
        low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
        high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
        shared = np.clip(high - low, 0, None).prod(axis=-1)
        areas = shared.diagonal()
        covered = shared / np.minimum(areas[:, None], areas)
        np.fill_diagonal(covered, 0)
        assert covered.max() <= 0.05


def test_boxes_are_tight() -> None:
    """On a plain wall, whatever differs from the wall is a digit."""
    digits = load_digits()
    wall = Image.new("RGB", (200, 200), (128, 128, 128))
    painter = _Painter(160, [wall], digits.images, digits.target)
    for number in range(30):
        picture, boxes = painter.scene((0, number))
        ink = np.abs(np.asarray(picture, dtype=int) - 128).max(axis=2)
        covered = np.zeros(ink.shape, bool)
        for _, (x, y, width, height) in boxes:
            patch = ink[y : y + height, x : x + width]
            assert patch.shape == (height, width)
            sides = patch[0], patch[-1], patch[:, 0], patch[:, -1]
            assert all(side.max() > 0.1 * patch.max() for side in sides)
            covered[y : y + height, x : x + width] = True
        assert not ink[~covered].any()


def test_it_is_the_same_every_time(paths: DemoData, tmp_path: Path) -> None:
    again = make(tmp_path)
    for first, second in zip(paths, again, strict=True):
        if first.is_file():
            assert first.read_bytes() == second.read_bytes()
        else:
            names = sorted(path.name for path in first.iterdir())
            assert names == sorted(path.name for path in second.iterdir())
            for name in names[:5]:
                assert (first / name).read_bytes() == (second / name).read_bytes()


def test_train_and_validation_share_no_digit_and_no_part_of_a_photograph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    painters = []
    original = _Painter.__init__

    def record(painter: _Painter, *arguments: object) -> None:
        original(painter, *arguments)
        painters.append(painter)

    monkeypatch.setattr(_Painter, "__init__", record)
    make(tmp_path)
    train, val = painters
    assert len(train.digits) + len(val.digits) == len(load_digits().images) == 1797
    assert set(train.names) == set(val.names) == set(range(10))
    # Every digit belongs to one of the two; equal drawings of other hands may exist.
    expected = np.concatenate([train.digits, val.digits]).sum()
    assert expected == load_digits().images.sum()
    for left, right in zip(train.photos, val.photos, strict=True):
        assert left.width + right.width == 640


def test_it_is_made_once(paths: DemoData) -> None:
    before = paths.train_json.stat().st_mtime_ns
    assert make(paths.train_json.parents[2]) == paths
    assert paths.train_json.stat().st_mtime_ns == before


def test_processes_that_start_together_agree(tmp_path: Path) -> None:
    with ProcessPoolExecutor(3) as pool:
        found = list(pool.map(make, [tmp_path] * 3))
    assert len(set(found)) == 1
    assert len(list(tmp_path.iterdir())) == 1  # nothing half made is left
    assert len(read_coco(found[0].train_json)) == 40


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left"):
        make(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_cache_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSSD_CACHE", str(tmp_path))
    assert demo_data(**SMALL).train_json.is_relative_to(tmp_path)


def test_without_scikit_learn_the_way_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'sssd\[demo\]'"):
        make(tmp_path)


def test_small_scenes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="image_size is 64; it must be at least 128"):
        demo_data(tmp_path, image_size=64)
