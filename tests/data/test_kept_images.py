"""Images are opened once: what is known of them holds until they change, and harms nobody."""

import importlib
import json
import os
from pathlib import Path

import pytest
from breaking import good
from two_images import DOG_LINE, PHOTO, write

from sssd.data import check, image_files, read_dataset
from sssd.data.files import cache_folder
from sssd.data.image_files import KeptImages


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSSD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(image_files, "FEW", 1)
    return tmp_path / "cache" / "checked"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images that a check opens."""
    names: list[str] = []

    def look(path: str, *settings: object) -> image_files.ImageFile:
        names.append(Path(path).name)
        return image_files.open_file(path, *settings)  # type: ignore[arg-type]

    monkeypatch.setattr(importlib.import_module("sssd.data.checks"), "open_file", look)
    return names


@pytest.fixture
def data(tmp_path: Path) -> Path:
    document = good(tmp_path)
    (tmp_path / "train.json").write_text(json.dumps(document))
    return tmp_path / "train.json"


def test_only_what_has_changed_is_opened_again(data: Path, opened: list[str], cache: Path) -> None:
    first = check(data)
    assert sorted(opened) == ["one.jpg", "two.png"]
    opened.clear()
    second = check(data)
    assert opened == []
    assert second.summary() == first.summary() + "; 2 images unchanged since the last check"
    assert (second.faults, second.files) == (first.faults, first.files)
    image = data.parent / "train" / "one.jpg"
    image.write_bytes(image.read_bytes()[:-20])  # truncated: another size
    (fault,) = check(data).errors
    assert (fault.kind, opened) == ("unreadable image", ["one.jpg"])
    opened.clear()
    (data.parent / "train" / "two.png").touch()
    check(data)
    assert sorted(opened) == ["one.jpg", "two.png"], "the broken one is never trusted"
    opened.clear()
    check(data, decode=True)
    assert sorted(opened) == ["one.jpg", "two.png"]
    (file,) = cache.iterdir()
    assert "one.jpg" not in file.read_text()


def test_what_the_annotations_say_is_examined_every_time(data: Path) -> None:
    check(data)
    document = json.loads(data.read_text())
    document["images"][0]["width"] += 1
    data.write_text(json.dumps(document))
    report = check(data)
    assert (report.unchanged, [fault.kind for fault in report.errors]) == (2, ["wrong size"])


@pytest.mark.parametrize("harm", ["cut", "flipped", "foreign", "folder", "version", "limit"])
def test_a_cache_that_cannot_be_trusted_is_not(
    harm: str, data: Path, cache: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    check(data)
    (file,) = cache.iterdir()
    content = file.read_bytes()
    if harm == "cut":
        file.write_bytes(content[:-5])
    elif harm == "flipped":
        file.write_bytes(content.replace(b", 48, ", b", 49, "))
    elif harm == "foreign":
        file.write_text("[]")
    elif harm == "folder":
        file.unlink()
        file.mkdir()
    elif harm == "version":
        monkeypatch.setattr(image_files, "VERSION", 99)
    else:
        monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 10**6)
    opened.clear()
    report = check(data)
    assert (report.faults, sorted(opened)) == ([], ["one.jpg", "two.png"])
    assert check(data).unchanged == (0 if harm == "folder" else 2)


def test_a_place_that_cannot_be_written_is_no_fault(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file in the place of the folder")
    assert check(data).faults == check(data).faults == []
    monkeypatch.delenv("SSSD_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert check(data).unchanged == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "sssd"


def test_no_more_is_kept_than_is_used(
    data: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_files, "MOST_FILES", 2)
    check(data)
    (file,) = cache.iterdir()
    document = json.loads(data.read_text())
    document["images"], document["annotations"] = document["images"][:1], []
    data.write_text(json.dumps(document))
    check(data)
    assert "two.png" not in file.read_text()
    os.utime(file, (1, 1))
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(data.read_text())
        check(read_dataset(tmp_path / f"{name}.json", tmp_path / "train"))
    assert len(list(cache.iterdir())) == 2
    assert not file.exists(), "the one that was not used for longest"
    monkeypatch.setattr(image_files, "FEW", 2)
    (tmp_path / "c.json").write_text(data.read_text())
    check(read_dataset(tmp_path / "c.json", tmp_path / "train"))
    assert len(list(cache.iterdir())) == 2


def test_sizes_of_yolo_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path / "y", {"a.jpg": PHOTO, "a.txt": DOG_LINE, "classes.txt": "cat\ndog\n"})
    check(root)
    monkeypatch.setattr(image_files, "read_size", None)
    assert read_dataset(root).sizes.tolist() == [[64, 48]]
    known = KeptImages(root, "train").unchanged(root / "a.jpg")
    assert known is not None
    assert (known.width, known.height, known.mode) == (64, 48, "RGB")
