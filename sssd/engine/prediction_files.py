"""The files that `predict` is given, and those that it draws."""

import glob
import os
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sssd.data.files import ENDINGS as IMAGES
from sssd.engine.files import write_atomically
from sssd.engine.video import ENDINGS, SIGNATURE, comment


def is_video(path: Path) -> bool:
    """Whether a file is a video, which its ending says."""
    return path.suffix.lower() in ENDINGS


def find_files(names: Sequence[str]) -> list[Path]:
    """Files that names stand for, each once, in order.

    A folder stands for every image and video below it, known by its ending; a name that does not
    exist but holds one of `*?[` for what it matches; anything else for itself. What `predict` drew
    is left out, wherever it lies.

    Raises:
        ValueError: a folder without images, a glob that matches nothing, or a name that stands for
            nothing but what `predict` drew.
    """
    files: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            found = _files_below(path)
            missing = "no images in this folder"
        elif not path.exists() and glob.has_magic(name):
            matches = [Path(match) for match in sorted(glob.glob(name, recursive=True))]
            below = [(match.is_dir() and _files_below(match)) or [match] for match in matches]
            found = [path for paths in below for path in paths]
            missing = "no file matches"
        else:
            found = [path]
        if not found:
            raise ValueError(f"{name}: {missing}")
        originals = [p for p in found if not was_drawn(p)]
        if not originals:
            raise ValueError(
                f"{name}: this picture was drawn by sssd.predict; give the original images"
            )
        if len(originals) < len(found):
            drawn = len(found) - len(originals)
            message = f"{name}: skipped {drawn} pictures that were drawn by sssd.predict"
            warnings.warn(message, stacklevel=2)
        files += originals
    return list(dict.fromkeys(files))


def _files_below(folder: Path) -> list[Path]:
    """Images and videos, behind links too; not what macOS puts beside them, ._NAME.

    Raises:
        ValueError: a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise ValueError(f"{error.filename}: the folder cannot be listed: {error}")

    endings, found, seen = {*IMAGES, *ENDINGS}, list[Path](), set[str]()
    for place, below, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link leads back up
            below.clear()
            continue
        seen.add(real)
        found += [Path(place, name) for name in names if name[0] != "."]
    return sorted(p for p in found if p.suffix.lower() in endings and p.is_file())


def was_drawn(path: Path) -> bool:
    """Whether `predict` drew a picture or a video, which its header says."""
    try:
        if path.suffix.lower() == ".mp4":
            return comment(path) == SIGNATURE
        if path.suffix.lower() != ".png":
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return image.info.get("Software") == SIGNATURE
    except Exception:  # no image, or none that can be read: whoever reads it will say why
        return False


def save_drawn(picture: Image.Image, path: Path) -> None:
    """Writes a picture as png, with the mark by which it is known again.

    Raises:
        RunError: it cannot be written.
    """
    signature = PngInfo()
    signature.add_text("Software", SIGNATURE)
    write_atomically(path, lambda file: picture.save(file, "PNG", pnginfo=signature))


def target_paths(files: Sequence[Path], folder: Path) -> list[Path]:
    """A path in `folder` for what is drawn of each file, also of files of one name.

    Raises:
        ValueError: a file is there already that `predict` did not write.
    """
    paths: dict[Path, None] = {}
    last: dict[str, int] = defaultdict(lambda: 1)
    for file in files:
        stem = os.fsdecode(os.fsencode(file.stem)[:200])  # of the 255 bytes that a name may have
        ending = ".mp4" if is_video(file) else ".png"
        path = folder / f"{stem}{ending}"
        while path in paths:
            last[stem] += 1
            path = folder / f"{stem}-{last[stem]}{ending}"
        if path.exists() and not was_drawn(path):
            raise ValueError(
                f"--out: {path} already exists and was not written by sssd.predict; choose another "
                "folder"
            )
        paths[path] = None
    return list(paths)
