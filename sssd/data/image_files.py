"""What is to be known of image files: found by opening each of them once, and kept."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
from PIL import Image

from sssd.data.files import cache_folder
from sssd.data.images import (
    count_pages,
    has_deep_colors,
    is_deep,
    open_picture,
    orientation,
    read_image,
    read_size,
    stated_orientation,
    stored_size,
    upright_size,
)

VERSION = 5  # raised with whatever changes what is kept, or what a check finds
FEW = 1000  # images that are opened in less than a second need not be remembered
MOST_FILES = 32  # data sets whose images are remembered, the latest
TAIL = 4096  # bytes
JPEG_END = b"\xff\xd9"


class ImageFile(NamedTuple):
    """What there is to know of an image file that can be read.

    Attributes:
        length: bytes.
        changed: time of its last change in ns.
        tail: checksum of its last bytes.
        width, height: pixels of the upright image.
        stored_width, stored_height: pixels before the EXIF rotation.
        turn: EXIF orientation that is applied, 1 (upright) to 8.
        stated_turn: what EXIF says of it, as Python writes that.
        mode: Pillow's name of its pixels.
        deep_colors: several channels of 16 bits, which Pillow reads as 8.
        brightest: largest value of 16 bits; None for other pixels.
        pages: pages or frames, of which the first is read.
    """

    length: int
    changed: int
    tail: int
    width: int
    height: int
    stored_width: int
    stored_height: int
    turn: int
    stated_turn: str
    mode: str
    deep_colors: bool
    brightest: int | None
    pages: int

    @property
    def signature(self) -> tuple[int, int]:
        """By which copies of a file are known."""
        return self.length, self.tail


def open_file(
    path: str, pixel_range: tuple[float, float] | None = None, decode: bool = False
) -> ImageFile:
    """Look into an image file.

    What is read of a JPEG, `check` says.

    Args:
        path: the file.
        pixel_range: as of `read_image`.
        decode: decode every JPEG wholly, too.

    Raises:
        Exception: it cannot be read; Pillow's decoders raise OSError, SyntaxError, ValueError, ...
    """
    found = os.stat(path)
    with open(path, "rb") as file:
        file.seek(max(0, found.st_size - TAIL))
        tail = file.read()
    with open_picture(path) as image:
        deep_colors = has_deep_colors(image)  # first: of a PNG, EXIF is read by loading it
        known = ImageFile(
            found.st_size,
            found.st_mtime_ns,
            zlib.crc32(tail),
            *upright_size(image),
            *stored_size(image),
            orientation(image),
            repr(stated_orientation(image)),
            image.mode,
            deep_colors,
            int(np.asarray(image).max(initial=0)) if is_deep(image) else None,
            count_pages(image),
        )
        whole = image.format == "JPEG" and tail.endswith(JPEG_END)
    if decode or not whole:
        read_image(path, pixel_range)
    return known


class KeptImages:
    """What an earlier check has found out about the images of a data set.

    A cache, one file for each data set: where it cannot be read or written, images are opened anew.

    Args:
        source: annotation file or folder of the data set.
        part: which part of it, as its reader knows it.
    """

    def __init__(self, source: str | Path, part: str) -> None:
        name = hashlib.sha256(repr((os.path.abspath(source), part)).encode())
        try:
            self._path = cache_folder() / "checked" / f"{name.hexdigest()[:24]}.json"
        except RuntimeError:  # a user without home: nothing can be read or written there
            self._path = Path(os.devnull) / "none"
        self._files = self._load()

    def unchanged(self, path: str | Path) -> ImageFile | None:
        """Give what is known of a file that has not changed since; else None."""
        values = self._files.get(os.path.abspath(path))
        if values is None:
            return None
        try:
            now = os.stat(path)
        except OSError:
            return None
        known = ImageFile(*values)
        same = (known.length, known.changed) == (now.st_size, now.st_mtime_ns)
        return known if same else None

    def size(self, path: Path) -> tuple[int, int]:
        """As `read_size`."""
        known = self.unchanged(path)
        return read_size(path) if known is None else (known.width, known.height)

    def keep(self, files: Iterable[tuple[str, ImageFile]]) -> None:
        """Remember the images of the data set, and these alone."""
        kept = {os.path.abspath(path): list(file) for path, file in files if _is_plain(file)}
        if kept == self._files or len(kept) < FEW:
            return
        body = json.dumps([_reader(), kept]).encode()
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._path.parent, delete=False) as file:
                try:
                    file.write(_digest(body) + b"\n" + body)
                    file.close()
                    os.replace(file.name, self._path)
                except OSError:
                    os.unlink(file.name)
                    raise
            _prune(self._path.parent)

    def _load(self) -> dict[str, list[Any]]:
        with contextlib.suppress(OSError, ValueError, RecursionError):
            digest, _, body = self._path.read_bytes().partition(b"\n")
            if digest == _digest(body):
                reader, files = json.loads(body)
                os.utime(self._path)  # used: others are pruned first
                return files if reader == _reader() else {}
        return {}


def _is_plain(file: ImageFile) -> bool:
    """Whether a file can be read whatever the range of values: 32 bits need one, colors of 16 bits
    take none.
    """
    is_wide = file.mode in ("I", "F") and file.brightest is None
    return not (is_wide or file.deep_colors)


def _reader() -> list[Any]:
    """Which versions and limits decide whether an image can be read."""
    return [VERSION, PIL.__version__, Image.MAX_IMAGE_PIXELS]


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()


def _prune(folder: Path) -> None:
    files = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files[MOST_FILES:]:
        path.unlink(missing_ok=True)
