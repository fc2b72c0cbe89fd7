"""Where the files of a data set lie: its folder, its splits, and paths as others wrote them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from PIL import Image

from sssd.data.faults import DataError

NO_PHOTOS = {"MPEG", "HDF5", "BUFR", "GRIB", "WMF", "EPS", "GBR"}
ENDINGS = {e for e, form in Image.registered_extensions().items() if form in Image.OPEN} - {
    e for e, form in Image.registered_extensions().items() if form in NO_PHOTOS
} | {".heic", ".heif"}  # fmt: skip
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
MOST = 3_000_000  # files of a data set
NOT_OURS = ("__MACOSX", "lost+found")  # in folders of others
SPLIT_FLAGS = "--split, in training --data.train-split or --data.val-split"
IMAGE_FLAGS = "--images, in training --data.train-images or --data.val-images"


def cache_folder() -> Path:
    """Where what is made once is kept: SSSD_CACHE, sssd in XDG_CACHE_HOME, or ~/.cache/sssd.

    Raises:
        RuntimeError: none of the variables is set, and the user has no home.
    """
    if own := os.environ.get("SSSD_CACHE"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "sssd"


class Files:
    """All files below a folder, hidden ones left out.

    Raises:
        DataError: there are far too many for a data set, or a folder cannot be listed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths: list[Path] = []
        self._walk(root, set())

    def _walk(self, folder: Path, seen: set[str]) -> None:
        real = os.path.realpath(folder)
        if real in seen:  # a link may lead back up
            return
        seen.add(real)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:  # what lies there would be missing from the data, unseen
            raise DataError(f"{folder}: the folder cannot be listed: {error}") from None
        entries = [e for e in entries if e.name[0] != "." and e.name not in NOT_OURS]
        self.paths += [folder / entry.name for entry in entries if entry.is_file()]
        if len(self.paths) > MOST:
            raise DataError(
                f"{self.root}: it has more than {MOST:,} files; give the folder of one data set"
            )
        for entry in entries:
            if entry.is_dir():
                self._walk(folder / entry.name, seen)

    def ending(self, *endings: str) -> list[Path]:
        """Give the files with some endings, in order."""
        return [path for path in self.paths if path.suffix.lower() in endings]

    def images(self) -> list[Path]:
        """Give the image files, in order."""
        return [path for path in self.paths if path.suffix.lower() in ENDINGS]

    def within(self, path: Path) -> tuple[str, ...]:
        """Give the folders between the root and a file."""
        return path.relative_to(self.root).parts[:-1]

    def split(self, paths: list[Path], split: str) -> list[Path] | None:
        """Give those of the files that lie in a split's folder; None where there are no splits."""
        names = {name for path in paths for name in self.within(path)}
        chosen = choose_split(names, split, self.root)
        return None if chosen is None else [p for p in paths if chosen in self.within(p)]


def split_named(name: str) -> str | None:
    """Give the split that a name stands for: "val" for "Valid" or "val2017"; None for no split."""
    plain = re.sub(r"[-_]?\d+$", "", name.lower())
    return next((split for split, known in SPLITS.items() if plain in known), None)


def choose_split(names: Iterable[str], split: str, source: Path) -> str | None:
    """Choose the name of a split among others.

    Args:
        names: of folders, lists or keys; those that stand for no split do not count.
        split: one of the names, or "train", "val" or "test" by any of its usual names.
        source: for messages.

    Returns:
        The name; None where none of them is a split and "train" or "val" is asked for: then a
        data set is not split and is taken whole.

    Raises:
        DataError: there are others alone, or two that fit.
    """
    names = set(names)
    if split in names:
        return split
    found = sorted(name for name in names if split_named(name) == split)
    if len(found) == 1:
        return found[0]
    known = sorted(name for name in names if split_named(name))
    if not known and split in ("train", "val"):
        return None
    what = "two or more splits are" if found else "no split is"
    offered = ", ".join(sorted({*known, *(n for n in names if n.lower() == "trainval")}))
    offer = f"it has {offered}: choose with {SPLIT_FLAGS}" if known else "it has no splits"
    raise DataError(f"{source}: {what} called {split!r}; {offer}")


def locate(written: str, bases: Iterable[Path]) -> Path | None:
    """Find a file or folder that others named, maybe on another machine.

    Tried below each base: the path as it is written (backslashes as slashes), without leading
    "..", and then without its first parts ("/content/set/train/images"): two must be left of a
    folder or image, one of a list.
    """
    path = Path(written.strip().strip("\"'").replace("\\", "/"))
    bases = list(bases)
    if not written.strip():
        return None
    tail = [part for part in path.parts if part not in ("..", ".", "/")]
    least = 1 if path.suffix in (".txt", ".names") else min(2, len(tail))
    tails = [Path(*tail[start:]) for start in range(len(tail) - least + 1)] if tail else []
    for candidate in (path, *tails):
        for base in bases:
            if os.path.exists(base / candidate):
                return Path(os.path.normpath(base / candidate))
    return None


def shared_folder(paths: list[Path]) -> Path:
    """Give the deepest folder that all files lie below."""
    folders = {path.parent for path in paths}
    if len({folder.is_absolute() for folder in folders}) > 1:
        return Path(os.path.commonpath([os.path.abspath(folder) for folder in folders]))
    return Path(os.path.commonpath(folders))


def folders_of_images(root: Path) -> str:
    """Name the three nearest folders that hold images, for a message; empty if there are none."""
    names: list[str] = []
    with suppress(DataError):  # of folders that nobody asked for
        found = dict.fromkeys(str(path.parent) for path in Files(root).images())
        names = list(found)[:3]
    return f"; there are images in {', '.join(names)}" if names else ""
