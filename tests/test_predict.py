"""The command: what it finds in files, what it leaves, and what it says to bad input."""

import json
import re
import shutil
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sssd.data import read_image
from sssd.engine.runs import load
from sssd.predict import find_images, main


@pytest.fixture(scope="module")
def run(finished_run: Path) -> Path:
    return finished_run


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
    (found,) = load(run).detector([read_image(images / "wide.jpg").float() / 255])
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


def found_in(out: Path) -> set[str]:
    """Names of the files that the results are of."""
    return {
        Path(row["file_name"]).name for row in json.loads((out / "detections.json").read_text())
    }


def on_reading(monkeypatch: pytest.MonkeyPatch, name: str, happens: Callable[[], object]) -> None:
    """Lets something happen when a file of this name is read; what it returns are the pixels."""

    def read(path: Path, *rest: Any) -> object:
        happened = happens() if path.name == name else None
        return read_image(path, *rest) if happened is None else happened

    monkeypatch.setattr("sssd.predict.read_image", read)


def test_an_image_beyond_the_memory_is_named_and_the_others_done(
    run: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    huge = torch.zeros(1, dtype=torch.uint8).expand(3, 2**22, 2**22)  # 192 TiB in float32
    shutil.copy(images / "1.png", images / "huge.png")
    on_reading(monkeypatch, "huge.png", lambda: huge)
    assert main([str(run), str(images), "--out", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert re.search(r"error: \S+huge.png: RuntimeError: .*memory.*\n.* 1 of 4 files left", message)
    assert found_in(tmp_path / "out") == {"1.png", "wide.jpg"}


@pytest.mark.parametrize(("signals", "kept"), [(1, {"1.png", "2.png"}), (2, {"1.png"})])
def test_ctrl_c_ends_after_the_image_at_hand_and_a_second_one_at_once(
    signals: int,
    kept: set[str],
    run: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt() -> None:
        for _ in range(signals):
            signal.raise_signal(signal.SIGINT)

    out = tmp_path / "out"
    (images / "below" / "1.png").rename(images / "2.png")
    on_reading(monkeypatch, "2.png", interrupt)
    # Whoever runs the tests in the background may have it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status = main([str(run), str(images), "--out", str(out)])
    except KeyboardInterrupt:
        status = None
    finally:
        signal.signal(signal.SIGINT, before)
    assert status == (128 + signal.SIGINT if signals == 1 else None)
    assert signals == 2 or "stopped after 2 of 3 files" in capsys.readouterr().err
    assert found_in(out) == kept


def test_what_was_found_is_there_before_the_end(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []
    monkeypatch.setattr("sssd.predict.WRITE_EVERY", 0.0)
    on_reading(monkeypatch, "wide.jpg", lambda: seen.append(found_in(tmp_path / "out")))
    assert main([str(run), str(images), "--out", str(tmp_path / "out")]) == 0
    assert seen == [{"1.png"}]


def test_it_never_reads_what_it_drew_nor_writes_over_what_it_did_not(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = []
    for out in (images / "out", images / "out", images / "other"):
        with warnings.catch_warnings(record=True):
            assert main([str(run), str(images), "--out", str(out)]) == 0
        assert len(list((out / "images").iterdir())) == 3
        results.append((out / "detections.json").read_text())
    assert results[0] == results[1] == results[2]
    drawn = images / "out" / "images" / "wide.png"
    status, message = fails(capsys, str(run), str(drawn), "--out", str(images / "out"))
    assert (status, "predict drew this itself" in message) == (2, True)
    original = (images / "1.png").read_bytes()  # OUT/images is where the images themselves lie
    status, message = fails(capsys, str(run), str(images), "--out", str(images.parent))
    assert (status, "1.png is there already" in message) == (2, True)
    assert (images / "1.png").read_bytes() == original


@pytest.mark.parametrize("size", [(1, 700), (700, 1), (1, 1)])
def test_images_thinner_than_the_network_can_resize(
    size: tuple[int, int], run: Path, tmp_path: Path
) -> None:
    Image.new("RGB", size, "red").save(tmp_path / "thin.png")
    assert main([str(run), str(tmp_path / "thin.png"), "--out", str(tmp_path / "out")]) == 0
    assert Image.open(tmp_path / "out" / "images" / "thin.png").size == size


def test_a_float_image_is_read_with_its_range(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.linspace(0, 0.5, 64 * 64, dtype=np.float32).reshape(64, 64)).save(
        tmp_path / "float.tif"
    )
    out = tmp_path / "out"
    arguments = [str(run), str(tmp_path / "float.tif"), "--out", str(out)]
    assert main(arguments) == 1
    assert "--pixel-range" in capsys.readouterr().err
    assert main([*arguments, "--pixel-range", "0", "0.5", "--draw-above", "1"]) == 0
    assert Image.open(out / "images" / "float.png").getextrema() == ((0, 255),) * 3


@pytest.mark.parametrize("name", ["x" * 251, "猫" * 83])
def test_a_file_with_the_longest_name(name: str, run: Path, images: Path, tmp_path: Path) -> None:
    (images / "1.png").rename(images / f"{name}.png")
    assert main([str(run), str(images / f"{name}.png"), "--out", str(tmp_path / "out")]) == 0
    (picture,) = (tmp_path / "out" / "images").iterdir()
    assert picture.name.startswith(name[:60])


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
    assert "cannot be written" in message


def test_the_help_says_what_is_named_in_which_order(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    help_text = capsys.readouterr().out
    assert "RUN IMAGE ..." in help_text
    assert "default: )" not in help_text
