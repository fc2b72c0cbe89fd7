"""Image files of any kind as upright 8-bit RGB tensors."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps

from sssd.data.faults import DataError

# EXIF orientations that exchange width and height (a quarter turn, with or without a mirror).
QUARTER_TURNS = (5, 6, 7, 8)


def read_image(path: str | Path) -> torch.Tensor:
    """Decode an image file as the viewer of a photo would show it.

    The EXIF rotation is applied; grey, palette, CMYK and 16-bit images become 8-bit RGB (16-bit
    values keep their high byte); an alpha channel is dropped.

    Args:
        path: file in any format that Pillow decodes.

    Returns:
        uint8 tensor (3, H, W).

    Raises:
        DataError: the file is missing, truncated, no image, or of 32-bit pixels; it is named.

    Example:
        >>> read_image("photo.jpg").shape  # doctest: +SKIP
        torch.Size([3, 480, 640])
    """
    try:
        with Image.open(path) as image:
            rgb = _to_rgb(ImageOps.exif_transpose(image))
            pixels = np.asarray(rgb).transpose(2, 0, 1)
            return torch.from_numpy(pixels.copy(order="C"))
    except FileNotFoundError:
        raise DataError(f"{path}: the image file does not exist") from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, ...
        raise DataError(f"{path}: the image cannot be read: {error}") from error


def read_size(path: str | Path) -> tuple[int, int]:
    """Read width and height of the upright image from the file's header, without decoding it.

    Args:
        path: file in any format that Pillow knows.

    Returns:
        (width, height) in pixels, after the EXIF rotation.

    Raises:
        DataError: the file is missing or its header cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return upright_size(image)
    except FileNotFoundError:
        raise DataError(f"{path}: the image file does not exist") from None
    except Exception as error:
        raise DataError(f"{path}: the image cannot be read: {error}") from error


def orientation(image: Image.Image) -> int:
    """Give the EXIF orientation, 1 (upright) to 8."""
    return int(image.getexif().get(ExifTags.Base.Orientation, 1))


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Give (width, height) of an opened image after its EXIF rotation."""
    width, height = image.size
    return (height, width) if orientation(image) in QUARTER_TURNS else (width, height)


def _to_rgb(image: Image.Image) -> Image.Image:
    mode = image.mode
    # Pillow calls a 16-bit grey PNG "I" before version 11 and "I;16" since.
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", None)):
        high_byte = np.clip(np.asarray(image, dtype=np.int32) >> 8, 0, 255)
        return Image.fromarray(high_byte.astype(np.uint8)).convert("RGB")
    if mode in ("I", "F"):
        raise ValueError(f"32-bit pixels (mode {mode}) have no known range; save it as 8 or 16 bit")
    if mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns when it drops a palette's transparency
    return image.convert("RGB")
