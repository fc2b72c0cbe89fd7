"""From settings to checked data sets."""

import io
import json
from pathlib import Path

import pytest
from breaking import good
from rich.console import Console

from sssd.data import DataError
from sssd.data.build import DataConfig, build_datasets


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    document = json.dumps(good(tmp_path))
    for split in ("train", "val"):
        (tmp_path / f"{split}.json").write_text(document)
    return DataConfig(
        train=tmp_path / "train.json",
        train_images=tmp_path / "train",
        val=tmp_path / "val.json",
        val_images=tmp_path / "train",
    )


def harm(path: Path | None) -> None:
    assert path is not None
    document = json.loads(path.read_text())
    document["annotations"][0]["bbox"] = [1, 1, 0, 5]
    path.write_text(json.dumps(document))


def test_both_sets(config: DataConfig, recwarn: pytest.WarningsRecorder) -> None:
    train_set, validation_set = build_datasets(config)
    assert len(train_set.boxes) == len(validation_set.boxes) == 3
    assert not recwarn


@pytest.mark.filterwarnings("ignore:.*bad records are left out")
@pytest.mark.parametrize("split", ["train", "val"])
def test_bad_records_raise_or_are_dropped(split: str, config: DataConfig) -> None:
    harm(getattr(config, split))
    with pytest.raises(DataError, match=rf"{split}\.json: annotation 11: degenerate box"):
        build_datasets(config)
    dropping = DataConfig(**{**vars(config), "on_bad_data": "drop"})
    sets = dict(zip(("train", "val"), build_datasets(dropping), strict=True))
    assert len(sets[split].boxes) == 2


def test_the_console_is_told(config: DataConfig, recwarn: pytest.WarningsRecorder) -> None:
    harm(config.val)
    console = Console(file=io.StringIO(), width=200)
    build_datasets(DataConfig(**{**vars(config), "on_bad_data": "drop"}), console)
    shown = console.file.getvalue()
    assert "cat" in shown
    assert "train.json: 2 images (0 without objects), 3 objects" in shown
    assert "val.json: annotation 11: degenerate box" in shown
    assert not recwarn


def test_categories_must_agree(config: DataConfig) -> None:
    assert config.val is not None
    document = json.loads(config.val.read_text())
    document["categories"][0]["name"] = "lynx"
    config.val.write_text(json.dumps(document))
    with pytest.raises(
        DataError, match=r"val\.json has other categories.* 'lynx' is not one of 2 cl"
    ):
        build_datasets(config)


@pytest.mark.parametrize("name", ["train", "val"])
def test_what_is_missing_is_named(name: str, config: DataConfig) -> None:
    with pytest.raises(DataError, match=rf"--data\.{name} is required"):
        build_datasets(DataConfig(**{**vars(config), name: None}))


def test_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSSD_CACHE", str(tmp_path))
    monkeypatch.setattr("sssd.data.demo.demo_data.__defaults__", (None, 160, 6, 3))
    train_set, validation_set = build_datasets(DataConfig(format="demo"))
    assert (len(train_set), len(validation_set)) == (6, 3)


def test_images_in_both_sets_are_told(config: DataConfig) -> None:
    console = Console(file=io.StringIO(), width=500)
    build_datasets(config, console)
    shown = console.file.getvalue()
    assert "image 1: image in both sets: it is also the training image" in shown


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"flip": 1.5}, "--data.flip is 1.5; it must be a probability"),
        ({"mosaic": -0.5}, "--data.mosaic is -0.5; it must be a probability"),
        ({"scale": 0.5}, "--data.scale is 0.5; it must be a number from 1 on"),
        ({"pixel_range": (9, 2)}, "--data.pixel-range is 9 2; it must be two numbers, the smaller"),
    ],
)
def test_numbers_out_of_range_name_their_flag(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(**values)


def test_a_set_without_images(config: DataConfig) -> None:
    assert config.val is not None
    config.val.write_text('{"images": [], "annotations": [], "categories": [{"id": 1}]}')
    with pytest.raises(DataError, match=r"val\.json: it has no images"):
        build_datasets(config)


def test_the_range_of_values_is_kept(config: DataConfig) -> None:
    """Of a setting read back from json, too."""
    plain, _ = build_datasets(config)
    sets = [
        build_datasets(DataConfig(**{**vars(config), "pixel_range": r}))[0]
        for r in ((0, 9), [0, 9])
    ]
    assert sets[0].fingerprint == sets[1].fingerprint != plain.fingerprint
    assert sets[0].subset([0]).pixel_range == (0, 9)
