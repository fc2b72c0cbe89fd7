"""What the names that `predict` is given stand for."""

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from sssd.engine.prediction_files import find_files


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two images of one name in two folders, one of another ending, and what is no image."""
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    for name in ("1.png", "below/1.png", "wide.jpg"):
        Image.new("RGB", (9, 5)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_names_stand_for_files_folders_and_globs(images: Path) -> None:
    everything = [images / "1.png", images / "below/1.png", images / "wide.jpg"]
    assert find_files([str(images)]) == everything
    assert find_files([str(images / "**/*.png")]) == everything[:2]
    assert find_files([str(images / "wide.jpg"), str(images)]) == [everything[2], *everything[:2]]
    bracketed = images / "wide[1].png"
    shutil.copy(images / "1.png", bracketed)
    assert find_files([str(bracketed)]) == [bracketed]


def test_a_folder_that_cannot_be_listed_is_named(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def refuse(folder: str) -> object:
        if Path(folder).name == "below":
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match=r"below: the folder cannot be listed: .*denied"):
        find_files([str(images)])
