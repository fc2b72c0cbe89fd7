"""Image files of any kind as upright 8-bit RGB tensors."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from sssd.data.faults import DataError
from sssd.data.files import NO_PHOTOS
from sssd.data.settings import require_range

# What puts an image upright again that is stored in one of the EXIF orientations.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
QUARTER_TURNS = (5, 6, 7, 8)  # they exchange width and height
RANGE_FLAGS = (
    "--pixel-range LOW HIGH (in training --data.pixel-range; the values of black and white)"
)
UNREADABLE = "the image cannot be read: "
if most := os.environ.get("SSSD_MAX_PIXELS"):
    if not most.isdecimal():
        raise ValueError(f"SSSD_MAX_PIXELS is {most!r}; it must be a whole number")
    Image.MAX_IMAGE_PIXELS = -(-int(most) // 2)  # Pillow refuses what has more than twice as many


def read_image(path: str | Path, pixel_range: tuple[float, float] | None = None) -> torch.Tensor:
    """Decode an image file as the viewer of a photo would show it.

    The EXIF rotation is applied; grey, palette, CMYK and 16-bit images become 8-bit RGB (16-bit
    values keep their high byte); an alpha channel is dropped; of several pages or frames the first
    is read. A picture beyond Pillow's limit of 179 million pixels is read if the environment
    variable SSSD_MAX_PIXELS allows it.

    Args:
        path: file in any format that Pillow decodes.
        pixel_range: what is black and white in an image of more than 8 bits (16-bit, float);
            values between become 0..255 in proportion. None: 0 and 65,535. Pillow reads the high
            bytes of several channels of 16 bits alone, so PNG and TIFF with these take none.

    Returns:
        uint8 tensor (3, H, W).

    Raises:
        DataError: the file is missing, truncated, no image, too large, of 32-bit pixels without
            a range, or of 16-bit colors with one; it is named.
        ValueError: a range that is none.

    Example:
        >>> read_image("photo.jpg").shape  # doctest: +SKIP
        torch.Size([3, 480, 640])
    """
    require_range("pixel_range", pixel_range)
    with _named(path), open_picture(path) as image:
        return to_pixels(image, pixel_range)


def to_pixels(image: Image.Image, pixel_range: tuple[float, float] | None = None) -> torch.Tensor:
    """An opened image as `read_image` gives it.

    Args:
        image: of any mode.
        pixel_range: as in `read_image`.

    Returns:
        uint8 tensor (3, H, W).

    Raises:
        ValueError: 32-bit pixels without a range, or 16-bit colors with one.
    """
    if pixel_range is not None and has_deep_colors(image):
        raise ValueError(
            "several channels of 16 bits, of which only the high bytes are read, so a range of "
            "values has no effect; convert it to grey of 16 bits, or to 8 bits"
        )
    image.load()  # a TIFF's rotation is applied by Pillow itself here, and no longer stated then
    turn = TURNS.get(orientation(image))
    rgb = _to_rgb(image, pixel_range)
    pixels = np.asarray(rgb if turn is None else rgb.transpose(turn)).transpose(2, 0, 1)
    return torch.from_numpy(pixels.copy(order="C"))


def read_size(path: str | Path) -> tuple[int, int]:
    """Read width and height of the upright image from the file's header, without decoding it.

    Args:
        path: file in any format that Pillow knows.

    Returns:
        (width, height) in pixels, after the EXIF rotation.

    Raises:
        DataError: the file is missing or its header cannot be read.
    """
    with _named(path), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with open_picture(path) as image:
            return upright_size(image)


def open_picture(path: str | Path) -> Image.Image:
    """Open an image file as Pillow does, by its content and whatever its ending.

    Raises:
        ValueError: it is a folder or a device, or of a format for which other programs run (EPS
            starts Ghostscript) or that Pillow only recognizes.
    """
    if not os.path.isfile(path) and os.path.exists(path):  # a pipe would be waited for
        raise ValueError("it is a folder or a device, not a file")
    image = Image.open(path)
    if image.format in NO_PHOTOS:
        image.close()
        raise ValueError(f"{image.format} files are not read")
    return image


@contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """An error in reading an image names it."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: the image file does not exist") from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, ...
        raise DataError(f"{path}: {UNREADABLE}{why_unreadable(path, error)}") from error


def orientation(image: Image.Image) -> int:
    """Give the EXIF orientation, 1 (upright) to 8; 1 for what is none of them."""
    stated = stated_orientation(image)
    return stated if isinstance(stated, int) and stated in TURNS else 1


def stated_orientation(image: Image.Image) -> object:
    """Give what EXIF says of the orientation, be it a number, a text or nonsense; 1 for nothing."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF raises struct.error, SyntaxError, ...: there is none, then
        return 1


def stored_size(image: Image.Image) -> tuple[int, int]:
    """Give (width, height) of an opened image, not yet loaded, before its EXIF rotation."""
    if isinstance(image, TiffImageFile):  # by Pillow's version, its size may be that of later
        return image.tag_v2[IMAGEWIDTH], image.tag_v2[IMAGELENGTH]
    return image.size


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Give (width, height) of an opened image, not yet loaded, after its EXIF rotation."""
    width, height = stored_size(image)
    return (height, width) if orientation(image) in QUARTER_TURNS else (width, height)


def count_pages(image: Image.Image) -> int:
    """Give the pages (TIFF) or frames (GIF, PNG, WebP) of an opened image, not yet loaded."""
    if image.format == "MPO":  # a camera's JPEG, with previews behind the picture
        return 1
    try:
        return getattr(image, "n_frames", 1)
    except Exception:  # what follows the first page is damaged
        return 1


def is_deep(image: Image.Image) -> bool:
    """Whether an opened image is grey of 16 bits."""
    # Pillow calls a 16-bit grey PNG "I" before version 11 and "I;16" since.
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")


def has_deep_colors(image: Image.Image) -> bool:
    """Whether an opened PNG or TIFF, not yet loaded, has several channels of 16 bits."""
    for *_, layout in getattr(image, "tile", ()):  # that of an image from memory has none
        name = layout[0] if isinstance(layout, tuple) else layout
        if re.match(r"(LA|RGB[AXa]?|CMYK);16", str(name)):
            return True
    return False


def _to_rgb(image: Image.Image, pixel_range: tuple[float, float] | None) -> Image.Image:
    deep = is_deep(image)
    if deep or image.mode in ("I", "F"):
        if pixel_range is None and not deep:
            raise ValueError(
                f"32-bit pixels (mode {image.mode}) have no known range; set it with {RANGE_FLAGS}"
            )
        values = np.asarray(image)
        if pixel_range is None:
            grey = (values.astype(np.int32) >> 8).astype(np.float64)
        else:
            low, high = pixel_range
            share = np.nan_to_num((values.astype(np.float64) - low) / (high - low))
            grey = np.clip(share, 0, 1) * 255 + 0.5
        return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns when it drops a palette's transparency
    return image.convert("RGB")


def why_unreadable(path: str | Path, error: Exception) -> str:
    """Say why Pillow could not read a file, and the way out where there is one."""
    if isinstance(error, ImportError) and isinstance(error.__context__, Exception):
        error = error.__context__  # Image.open as ultralytics replaces it wants a plugin then
    if isinstance(error, Image.DecompressionBombError):
        return (
            f"{error}; if you trust the file, set the environment variable SSSD_MAX_PIXELS to a "
            "larger number (SSSD_MAX_PIXELS=2000000000)"
        )
    if os.path.isfile(path):
        with open(path, "rb") as file:
            if file.read(12)[4:8] == b"ftyp":
                return (
                    f"it is HEIC or similar, which is not supported; convert it to JPEG ({error})"
                )
    return str(error)
