"""The command: what it finds in files, what it leaves, and what it says to bad input."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageChops

from sssd.data import read_image
from sssd.engine.runs import open_run
from sssd.predict import draw, find_images, main
from tests.runs import make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def images(run: Path, tmp_path: Path) -> Path:
    """Two images of one name in two folders, and one of another size."""
    source, folder = run.parent / "data" / "val", tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    shutil.copy(source / "1.png", folder / "1.png")
    shutil.copy(source / "2.png", folder / "below" / "1.png")
    Image.open(source / "3.png").resize((90, 50)).save(folder / "wide.jpg")
    (folder / "notes.txt").write_text("no image")
    return folder


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit status and the error's text of a command that must fail."""
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert isinstance(exit_info.value.code, int)
    return exit_info.value.code, " ".join(capsys.readouterr().err.split())


def test_a_folder_becomes_results_and_pictures(run: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main([str(run), str(images), "--out", str(out), "--min-score", "0.3"]) == 0
    results = json.loads((out / "detections.json").read_text())
    files = {row["image_id"]: row["file_name"] for row in results}
    expected = [images / "1.png", images / "below" / "1.png", images / "wide.jpg"]
    assert files == {number: str(path) for number, path in enumerate(expected, start=1)}
    wide = [row for row in results if row["image_id"] == 3]
    (found,) = open_run(run).detector([read_image(images / "wide.jpg").float() / 255])
    kept = found["scores"] >= 0.3
    assert 0 < len(wide) == int(kept.sum())
    torch.testing.assert_close([r["score"] for r in wide], found["scores"][kept].tolist())
    x1, y1, x2, y2 = found["boxes"][kept][0].tolist()
    assert wide[0]["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1])
    label = int(found["labels"][kept][0])
    assert (wide[0]["category_id"], wide[0]["category"]) == (label + 1, f"kind{label}")
    pictures = sorted(path.name for path in (out / "images").iterdir())
    assert pictures == ["1-2.png", "1.png", "wide.png"]
    assert Image.open(out / "images" / "wide.png").size == (90, 50)


def test_unreadable_files_are_named_and_the_others_done(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "broken.png").write_bytes(b"no image")
    out = tmp_path / "out"
    absent = str(images / "absent.png")
    assert main([str(run), str(images), absent, "--out", str(out)]) == 1
    message = capsys.readouterr().err
    assert "broken.png: the image cannot be read" in message
    assert "absent.png: the image file does not exist" in message
    assert "2 of 5 files left out" in message
    assert len(list((out / "images").iterdir())) == 3
    assert {r["file_name"] for r in json.loads((out / "detections.json").read_text())} == {
        str(images / name) for name in ("1.png", "below/1.png", "wide.jpg")
    }


def test_names_stand_for_files_folders_and_globs(images: Path) -> None:
    everything = [images / "1.png", images / "below/1.png", images / "wide.jpg"]
    assert find_images([str(images)]) == everything
    assert find_images([str(images / "**/*.png")]) == everything[:2]
    assert find_images([str(images / "wide.jpg"), str(images)]) == [everything[2], *everything[:2]]
    bracketed = images / "wide[1].png"
    shutil.copy(images / "1.png", bracketed)
    assert find_images([str(bracketed)]) == [bracketed]


def test_the_drawing_shows_sure_detections_once() -> None:
    pixels = torch.zeros(3, 40, 40, dtype=torch.uint8)
    box = [5.0, 5.0, 30.0, 30.0]
    found = {
        "boxes": torch.tensor([box, box]),
        "scores": torch.tensor([0.9, 0.6]),
        "labels": torch.tensor([0, 1]),
    }
    first = {name: value[:1] for name, value in found.items()}
    blank = draw(pixels, found, ["a", "b"], above=0.95)
    assert blank.getextrema() == ((0, 0),) * 3
    both, one = (draw(pixels, f, ["a", "b"], above=0.3) for f in (found, first))
    assert one.getpixel((5, 20)) == (0, 255, 0)
    assert ImageChops.difference(both, one).getbbox() is None


def test_wrong_use_is_status_two(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    (tmp_path / "empty").mkdir()
    cases = {
        "name images": [str(run), *out],
        "no image below this folder": [str(run), str(tmp_path / "empty"), *out],
        "no file matches": [str(run), str(tmp_path / "*.tif"), *out],
        "--draw-above is 2": [str(run), str(images), *out, "--draw-above", "2"],
        "--out": [str(run), str(images)],
        "no run's folder": [str(images), str(images), *out],
    }
    for said, arguments in cases.items():
        status, message = fails(capsys, *arguments)
        assert status == 2, message
        assert said in message
    assert not (tmp_path / "out").exists()


def test_a_folder_that_can_not_be_written_is_status_one(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    status, message = fails(capsys, str(run), str(images), "--out", str(tmp_path / "file"))
    assert status == 1
    assert "can not be written" in message


def test_the_help_says_what_is_named_in_which_order(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    help_text = capsys.readouterr().out
    assert "RUN IMAGE ..." in help_text
    assert "default: )" not in help_text
