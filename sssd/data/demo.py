"""The demo data: real handwritten digits on crops of real photographs, made on first use.

Both come with scikit-learn: 1,797 digits of 8 x 8 pixels (Alpaydin and Kaynak, UCI optdigits) and
two photographs. Train and validation scenes share no digit and no part of a photograph.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, ImageStat

from sssd.data.files import cache_folder

# Raised whenever the scenes change, so that an old cache is not taken for the new data.
VERSION = 2
MOST_DIGITS = 8
# Share of the digits and range of the square root of the box area, in pixels, of each size;
# COCO's limits are 32 and 96. A large digit fills much of a scene: at most one.
LARGE = 2
SIZES = ((0.35, 16, 31), (0.5, 33, 80), (0.15, 98, 120))
SHARE_OF_VALIDATION = 0.3  # of a photograph's width
# Opacity by blurred ink: sharp, as the strokes of a pen.
STROKE = [round(255 * min(max((ink / 255 - 0.35) / 0.2, 0), 1)) for ink in range(256)]
VISIBLE = [0] * 64 + [255] * 192  # the box of a digit ends where its ink is a quarter opaque


class DemoData(NamedTuple):
    """Where the demo data lies."""

    train_json: Path
    train_images: Path
    val_json: Path
    val_images: Path


def demo_data(
    root: str | Path | None = None,
    image_size: int = 160,
    train_scenes: int = 1600,
    val_scenes: int = 200,
) -> DemoData:
    """Give the demo data, and make it first if it is not there: COCO json files and PNG images.

    The same arguments give the same pixels. The folder appears at once and complete, so that
    processes that start together, or a run that is killed, leave nothing half made.

    Args:
        root: cache folder; None: the environment variable SSSD_CACHE, or else sssd in
            XDG_CACHE_HOME, or ~/.cache/sssd.
        image_size: side of a scene in pixels, at least 128.
        train_scenes: number of scenes to train on.
        val_scenes: number of scenes to validate on.

    Returns:
        Paths of the annotations and image folders.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: the scenes are too small for a digit that is large in COCO's sense.

    Example:
        >>> paths = demo_data()  # doctest: +SKIP
        >>> train = read_coco(paths.train_json, paths.train_images)  # doctest: +SKIP
    """
    if image_size < 128:
        raise ValueError(f"image_size is {image_size}; it must be at least 128 pixels")
    cache = cache_folder() if root is None else Path(root)
    folder = cache / f"digits-{image_size}-{train_scenes}-{val_scenes}-v{VERSION}"
    if not folder.is_dir():
        _make(folder, image_size, {"train": train_scenes, "val": val_scenes})
    annotations = folder / "annotations"
    return DemoData(
        annotations / "instances_train.json",
        folder / "train",
        annotations / "instances_val.json",
        folder / "val",
    )


def _make(folder: Path, image_size: int, scenes: dict[str, int]) -> None:
    try:
        from sklearn.datasets import load_digits, load_sample_images
    except ImportError:
        raise ImportError(
            "the demo data needs scikit-learn, which is not installed: pip install 'sssd[demo]'"
        ) from None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        (temporary / "annotations").mkdir()
        photos = load_sample_images().images
        digits = load_digits()
        every_fifth = np.arange(len(digits.images)) % 5 == 0
        for number, (split, count) in enumerate(scenes.items()):
            of_split = every_fifth == (split == "val")
            painter = _Painter(
                image_size,
                [_side_of_photo(photo, split) for photo in photos],
                digits.images[of_split],
                digits.target[of_split],
            )
            _write_split(temporary, split, painter, seeds=[(number, k) for k in range(count)])
        temporary.chmod(0o755)
        temporary.rename(folder)
    except OSError as error:
        if not folder.is_dir():  # else another process was first, with the same pixels
            raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unwritable(folder: Path, error: OSError) -> OSError:
    return OSError(
        f"the demo data cannot be written to {folder.parent}: {error}; set the environment "
        "variable SSSD_CACHE to a folder that can be written"
    )


def _side_of_photo(photo: np.ndarray, split: str) -> Image.Image:
    border = round(photo.shape[1] * (1 - SHARE_OF_VALIDATION))
    return Image.fromarray(photo[:, :border] if split == "train" else photo[:, border:])


def _write_split(folder: Path, split: str, painter: _Painter, seeds: list[tuple[int, int]]) -> None:
    (folder / split).mkdir()

    def write(number: int, seed: tuple[int, int]) -> list[tuple[int, list[int]]]:
        picture, digits = painter.scene(seed)
        picture.save(folder / split / _name(number), compress_level=1, compress_type=zlib.Z_RLE)
        return digits

    numbers = range(1, len(seeds) + 1)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow works outside the interpreter lock
        scenes = list(pool.map(write, numbers, seeds))
    size = {"width": painter.image_size, "height": painter.image_size}
    annotations = [
        {
            "image_id": number,
            "category_id": digit + 1,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for number, digits in zip(numbers, scenes, strict=True)
        for digit, box in digits
    ]
    document = {
        "images": [{"id": number, "file_name": _name(number), **size} for number in numbers],
        "annotations": [{"id": key, **record} for key, record in enumerate(annotations, start=1)],
        "categories": [{"id": digit + 1, "name": str(digit)} for digit in range(10)],
    }
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))


def _name(number: int) -> str:
    return f"{number:06d}.png"


class _Painter:
    """Paints scenes, each a function of its seed alone."""

    def __init__(
        self, image_size: int, photos: list[Image.Image], digits: np.ndarray, names: np.ndarray
    ) -> None:
        self.image_size = image_size
        self.photos = photos
        self.digits = digits  # (n, 8, 8) in 0..16
        self.names = names  # (n,) which digit it is

    def scene(self, seed: tuple[int, int]) -> tuple[Image.Image, list[tuple[int, list[int]]]]:
        """Give a picture and, for each digit, which it is and its box x, y, w, h."""
        random = np.random.default_rng(seed)
        picture = self._background(random)
        digits: list[tuple[int, list[int]]] = []
        taken = np.empty((0, 4))
        for size in _sizes(random):
            which = random.integers(len(self.digits))
            mask = _mask(random, self.digits[which], size, longest=self.image_size)
            width, height = mask.size
            place = self._free_place(random, width, height, taken)
            if place is None:
                continue
            x, y = place
            _paint(random, picture, mask, (x, y, x + width, y + height))
            digits.append((int(self.names[which]), [x, y, width, height]))
            taken = np.vstack([taken, [x, y, x + width, y + height]])
        return picture, digits

    def _background(self, random: np.random.Generator) -> Image.Image:
        """Give a random crop of a photograph, random in size and mirrored half the time."""
        photo = self.photos[random.integers(len(self.photos))]
        side = int(random.integers(96, min(photo.size) + 1))
        x, y = (int(random.integers(length - side + 1)) for length in photo.size)
        crop = photo.resize(
            (self.image_size, self.image_size),
            Image.Resampling.BILINEAR,
            box=(x, y, x + side, y + side),
        )
        return ImageOps.mirror(crop) if random.random() < 0.5 else crop

    def _free_place(
        self, random: np.random.Generator, width: int, height: int, taken: np.ndarray
    ) -> tuple[int, int] | None:
        """Find a corner for a box that hardly covers another one."""
        x = random.integers(0, self.image_size - width + 1, size=30)
        y = random.integers(0, self.image_size - height + 1, size=30)
        corners = np.stack([x, y, x + width, y + height], axis=1)[:, None]  # (30, 1, 4)
        low = np.maximum(corners[..., :2], taken[:, :2])
        high = np.minimum(corners[..., 2:], taken[:, 2:])
        shared = np.clip(high - low, 0, None).prod(axis=-1)  # (30, taken)
        areas = (taken[:, 2:] - taken[:, :2]).prod(axis=-1)
        free = np.flatnonzero((shared <= 0.05 * np.minimum(areas, height * width)).all(axis=1))
        return (int(x[free[0]]), int(y[free[0]])) if len(free) else None


def _sizes(random: np.random.Generator) -> list[float]:
    """Draw the square roots of the areas of a scene's digits, largest first."""
    count = random.integers(1, MOST_DIGITS + 1)
    kinds = random.choice(len(SIZES), size=count, p=[share for share, _, _ in SIZES])
    kinds[np.flatnonzero(kinds == LARGE)[1:]] = 0
    ranges = np.array([limits for _, *limits in SIZES], float)[kinds]
    return sorted(np.exp(random.uniform(*np.log(ranges).T)).tolist(), reverse=True)


def _mask(random: np.random.Generator, digit: np.ndarray, size: float, longest: int) -> Image.Image:
    """Give the digit's opacity, tight around the ink.

    The square root of its area is close to `size`, unless a side would be longer than `longest`.
    """
    pen = np.pad(digit * (255 / 16), 2).astype(np.uint8)  # strokes end before the frame does
    drawn = Image.fromarray(pen).resize((72, 72), Image.Resampling.BICUBIC)
    turned = drawn.rotate(random.uniform(-15, 15), Image.Resampling.BILINEAR)
    ink = turned.point(STROKE)
    tight = ink.crop(ink.point(VISIBLE).getbbox())
    stretch = min(size / math.sqrt(tight.width * tight.height), longest / max(tight.size))
    width, height = (max(4, round(side * stretch)) for side in tight.size)
    return tight.resize((width, height), Image.Resampling.BILINEAR)


def _paint(
    random: np.random.Generator,
    picture: Image.Image,
    mask: Image.Image,
    box: tuple[int, int, int, int],
) -> None:
    """Paint in a colour that stands out from what is below, in place."""
    below = ImageStat.Stat(picture.crop(box).convert("L"), mask).mean[0]
    light = random.random() < np.clip((160 - below) / 60, 0, 1)  # either, on middle grey
    low, high = (185, 256) if light else (0, 65)
    red, green, blue = random.integers(low, high, size=3).tolist()
    picture.paste((red, green, blue), box, mask)
