"""A good data set, and ways to break it."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Document = dict[str, Any]
WIDTH, HEIGHT = 64, 48


def good(folder: Path) -> Document:
    """Write two images and give the COCO document that fits them."""
    images = folder / "train"
    images.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    for name in ("one.jpg", "two.png"):
        Image.fromarray(pixels).save(images / name)
    return {
        "images": [
            {"id": 1, "file_name": "one.jpg", "width": WIDTH, "height": HEIGHT},
            {"id": 2, "file_name": "two.png", "width": WIDTH, "height": HEIGHT},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": [
            {"id": 11, "image_id": 1, "category_id": 1, "bbox": [4, 5, 20, 30]},
            {"id": 12, "image_id": 2, "category_id": 7, "bbox": [0, 0, 64, 48]},
            {"id": 13, "image_id": 2, "category_id": 1, "bbox": [1.5, 2.5, 3, 4]},
        ],
    }


@dataclass(frozen=True)
class Broken:
    """A way to break the good data set.

    Args:
        name: of the case.
        harm: changes the document or the files in the folder.
        expected: what the message says, after "severity: ".
        images: how many of the two images are left when bad records are dropped.
        boxes: how many of the three boxes are.
    """

    name: str
    harm: Callable[[Document, Path], object]
    expected: str
    images: int = 2
    boxes: int = 3

    def write(self, folder: Path) -> Path:
        """Write the broken data set and give its json file."""
        document = good(folder)
        self.harm(document, folder / "train")
        path = folder / "annotations" / "instances_train.json"
        path.parent.mkdir()
        path.write_text(json.dumps(document))
        return path


def with_box(*values: float) -> Callable[[Document, Path], object]:
    return lambda document, _: document["annotations"][2].update(bbox=list(values))


def with_annotation(**values: object) -> Callable[[Document, Path], object]:
    return lambda document, _: document["annotations"][2].update(values)


def with_image(**values: object) -> Callable[[Document, Path], object]:
    return lambda document, _: document["images"][0].update(values)


def truncate(images: Path, name: str) -> None:
    path = images / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def with_pixels(mode: str, name: str = "one.png") -> Callable[[Document, Path], object]:
    """Store the first image in another pixel format."""

    def harm(document: Document, images: Path) -> None:
        image = Image.open(images / "one.jpg")
        if mode.startswith("I;"):
            grey = np.asarray(image.convert("L")).astype(np.uint16)
            grey[0, 0] = 255
            grey = grey * 257 if mode == "I;16" else grey * 16
            image = Image.fromarray(grey)
        else:
            image = image.convert(mode)
        image.save(images / name)
        document["images"][0]["file_name"] = name

    return harm


def with_pages(name: str) -> Callable[[Document, Path], object]:
    """Store the first image with two more pages behind it."""

    def harm(document: Document, images: Path) -> None:
        image = Image.open(images / "one.jpg")
        others = [image.rotate(degrees) for degrees in (90, 180)]
        image.save(images / name, save_all=True, append_images=others)
        document["images"][0]["file_name"] = name

    return harm


def exif_of(orientation: int | str) -> bytes:
    """EXIF data with an orientation of any kind, which Pillow would not write."""
    text = isinstance(orientation, str)
    value = orientation.encode() + b"\0" if text else struct.pack("<I", orientation)
    entry = struct.pack("<HHI", 0x0112, 2 if text else 4, len(value) if text else 1)
    place = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack("<I", 26)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + place + bytes(4) + value


def with_turned(
    stated: tuple[int, int], orientation: int | str = 6
) -> Callable[[Document, Path], object]:
    """Store the first image with an EXIF note to turn it."""

    def harm(document: Document, images: Path) -> None:
        Image.open(images / "one.jpg").save(images / "turned.jpg", exif=exif_of(orientation))
        record = document["images"][0]
        record.update(file_name="turned.jpg", width=stated[0], height=stated[1])

    return harm
