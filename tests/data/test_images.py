"""Images of every pixel format as upright RGB."""

import importlib
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from breaking import exif_of
from PIL import ExifTags, Image

from sssd.data import DataError, images, read_image
from sssd.data.image_files import open_file
from sssd.data.images import orientation, read_size, to_pixels

HEIGHT, WIDTH = 6, 9
PIXELS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
GREY = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH) * 4


def save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def as_pixels(tensor: torch.Tensor) -> np.ndarray:
    assert tensor.dtype == torch.uint8
    assert tensor.is_contiguous()
    return tensor.permute(1, 2, 0).numpy()


def test_rgb(tmp_path: Path) -> None:
    path = save(Image.fromarray(PIXELS), tmp_path / "a.png")
    np.testing.assert_array_equal(as_pixels(read_image(path)), PIXELS)
    assert read_size(path) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("mode", ["L", "LA", "1", "I;16", "P"])
def test_grey(mode: str, tmp_path: Path) -> None:
    grey = GREY
    if mode == "1":
        grey = np.where(GREY < 128, 0, 255).astype(np.uint8)
    image = Image.fromarray(grey)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 256 + 255)  # the high byte is the value
    elif mode != "L":
        image = image.convert(mode)
    read = as_pixels(read_image(save(image, tmp_path / "a.png")))
    np.testing.assert_array_equal(read, np.repeat(grey[..., None], 3, axis=2))


def test_colors_of_16_bits_have_no_range(tmp_path: Path) -> None:
    """Pillow reads their high bytes alone: a range would do nothing."""
    path = tmp_path / "a.png"
    wide = (PIXELS.astype(np.uint16) * 256 + 255).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in wide)
    size = struct.pack(">II5B", WIDTH, HEIGHT, 16, 2, 0, 0, 0)
    parts = {b"IHDR": size, b"IDAT": zlib.compress(rows), b"IEND": b""}
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part))
            for name, part in parts.items()
        )
    )
    np.testing.assert_array_equal(as_pixels(read_image(path)), PIXELS)
    assert open_file(str(path)).deep_colors
    assert not open_file(str(save(Image.fromarray(PIXELS), tmp_path / "b.png"))).deep_colors
    with pytest.raises(DataError, match=r"a\.png: .* several channels of 16 bits.* no effect"):
        read_image(path, (0, 4095))


@pytest.mark.parametrize("ending", [".tif", ".pgm", ".png"])
def test_one_channel_of_16_bits_has_a_range_whatever_the_format(
    ending: str, tmp_path: Path
) -> None:
    grey = np.array([[0, 2048, 4095]], np.uint16)
    path = save(Image.fromarray(grey), tmp_path / f"a{ending}")
    read = as_pixels(read_image(path, (0, 4095)))
    assert read[0, :, 0].tolist() == [0, 128, 255]
    with Image.open(path) as image:
        assert not images.has_deep_colors(image)


def test_pixels_from_memory_have_no_file_whose_layout_is_known() -> None:
    for image in (Image.fromarray(PIXELS), Image.fromarray(GREY)):
        assert to_pixels(image, (0, 4095)).shape == (3, HEIGHT, WIDTH)


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(16))])
def test_palette(transparency: int | bytes | None, tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS).quantize(16)
    options = {} if transparency is None else {"transparency": transparency}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = as_pixels(read_image(save(image, tmp_path / "a.png", **options)))
    np.testing.assert_array_equal(read, np.asarray(image.convert("RGB")))


def test_alpha_is_dropped(tmp_path: Path) -> None:
    alpha = np.full((HEIGHT, WIDTH, 1), 7, np.uint8)
    path = save(Image.fromarray(np.concatenate([PIXELS, alpha], axis=2)), tmp_path / "a.png")
    np.testing.assert_array_equal(as_pixels(read_image(path)), PIXELS)


def test_cmyk_is_not_inverted(tmp_path: Path) -> None:
    """Printers store the ink, and JPEG its complement: white paper must come out white."""
    colours = np.zeros((16, 16, 3), np.uint8)
    colours[:, :8] = (250, 250, 250)
    colours[:, 8:] = (200, 10, 10)
    path = save(Image.fromarray(colours).convert("CMYK"), tmp_path / "a.jpg", quality=95)
    read = as_pixels(read_image(path)).astype(int)
    assert np.abs(read - colours).max() < 30


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations(orientation: int, suffix: str, tmp_path: Path) -> None:
    """The picture is stored turned by each of the eight ways, and read upright.

    A TIFF is turned by Pillow when it loads it, all else by us.
    """
    store = {
        1: lambda pixels: pixels,
        2: lambda pixels: pixels[:, ::-1],
        3: lambda pixels: pixels[::-1, ::-1],
        4: lambda pixels: pixels[::-1],
        5: lambda pixels: pixels.swapaxes(0, 1),
        6: lambda pixels: np.rot90(pixels),
        7: lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
        8: lambda pixels: np.rot90(pixels, -1),
    }[orientation]
    image = Image.fromarray(np.ascontiguousarray(store(PIXELS)))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    lossless = {"lossless": True} if suffix == "webp" else {}
    path = save(image, tmp_path / f"a.{suffix}", exif=exif, **lossless)
    np.testing.assert_array_equal(as_pixels(read_image(path)), PIXELS)
    assert read_size(path) == (WIDTH, HEIGHT)
    known = open_file(str(path))
    assert (known.width, known.height, known.turn) == (WIDTH, HEIGHT, orientation)
    assert (known.stored_width, known.stored_height) == image.size
    with Image.open(path) as opened:
        opened.load()  # as a caller may have
        np.testing.assert_array_equal(as_pixels(to_pixels(opened)), PIXELS)


@pytest.mark.parametrize("read", [read_image, read_size])
def test_errors_name_the_file(read: object, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    with pytest.raises(DataError, match=r"a\.jpg: the image file does not exist"):
        read(path)
    path.write_text("no photograph")
    with pytest.raises(DataError, match=r"a\.jpg: the image cannot be read: cannot identify"):
        read(path)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_files_name_themselves(suffix: str, tmp_path: Path) -> None:
    path = save(Image.fromarray(np.tile(PIXELS, (30, 30, 1))), tmp_path / f"a.{suffix}")
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match=rf"a\.{suffix}: the image cannot be read: .*truncated"):
        read_image(path)


@pytest.mark.parametrize("stated", ["6", "left", 0, 9, 65537])
def test_an_orientation_that_is_none(stated: object, tmp_path: Path) -> None:
    """Such an image is taken as it is stored, and its size too."""
    path = save(Image.fromarray(PIXELS), tmp_path / "a.png", exif=exif_of(stated))
    np.testing.assert_array_equal(as_pixels(read_image(path)), PIXELS)
    assert read_size(path) == (WIDTH, HEIGHT)
    with Image.open(path) as image:
        assert orientation(image) == 1


def test_damaged_exif_is_none(tmp_path: Path) -> None:
    path = save(Image.fromarray(PIXELS), tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    np.testing.assert_array_equal(as_pixels(read_image(path)), PIXELS)


@pytest.mark.parametrize(("suffix", "pages"), [("tif", 2), ("gif", 2), ("webp", 2), ("mpo", 1)])
def test_pages_and_frames_are_counted(suffix: str, pages: int, tmp_path: Path) -> None:
    path = tmp_path / f"two.{suffix}"
    first, second = (Image.new("RGB", (8, 6), color) for color in ("red", "blue"))
    first.save(path, save_all=True, append_images=[second])
    assert open_file(str(path)).pages == pages  # a camera's MPO holds one picture and previews
    assert read_image(path)[:, 0, 0].argmax() == 0


@pytest.mark.parametrize(
    ("values", "pixel_range", "expected"),
    [
        (np.array([[0, 2048, 4095]], np.uint16), None, [0, 8, 15]),
        (np.array([[0, 2048, 4095]], np.uint16), (0, 4095), [0, 128, 255]),
        (np.array([[90, 150, 250]], np.uint16), (100, 200), [0, 128, 255]),
        (np.array([[0, 0.5, 1.5]], np.float32), (0, 1), [0, 128, 255]),
        (np.array([[-1, np.nan, np.inf]], np.float32), (-1, 1), [0, 0, 255]),
        (np.array([[-100, 0, 100]], np.int32), (-100, 100), [0, 128, 255]),
        (np.array([[0, 128, 255]], np.uint8), (0, 1), [0, 128, 255]),  # 8 bits are what they are
    ],
)
def test_a_range_of_values(
    values: np.ndarray, pixel_range: tuple[float, float] | None, expected: list, tmp_path: Path
) -> None:
    path = save(Image.fromarray(values), tmp_path / "a.tif")
    assert read_image(path, pixel_range)[0, 0].tolist() == expected


def test_floats_need_a_range(tmp_path: Path) -> None:
    path = save(Image.fromarray(np.zeros((2, 3), np.float32)), tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif: .*mode F.* set it with --pixel-range LOW HIGH"):
        read_image(path)


def test_very_large_pictures_are_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(Image.fromarray(PIXELS), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", PIXELS.size // 3 // 2 - 1)
    for read in (read_image, read_size):
        with pytest.raises(DataError, match="set the environment variable SSSD_MAX_PIXELS"):
            read(path)
    monkeypatch.setenv("SSSD_MAX_PIXELS", "2000000000")
    importlib.reload(images)
    assert Image.MAX_IMAGE_PIXELS == 1_000_000_000  # Pillow refuses twice as many
    assert read_size(path) == (WIDTH, HEIGHT)
    monkeypatch.setenv("SSSD_MAX_PIXELS", "many")
    with pytest.raises(ValueError, match="SSSD_MAX_PIXELS is 'many'; it must be a whole number"):
        importlib.reload(images)


def test_heic_is_named(tmp_path: Path) -> None:
    path = tmp_path / "IMG_1.jpg"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    with pytest.raises(DataError, match=r"IMG_1\.jpg: .*HEIC.*convert it to JPEG"):
        read_image(path)


@pytest.mark.parametrize("pixel_range", [(8000, 0), (5, 5), (0, float("nan"))])
def test_a_range_that_is_none_is_refused(pixel_range: tuple[float, float], tmp_path: Path) -> None:
    path = save(Image.new("I;16", (3, 1), 4000), tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"pixel_range is .*; it must be two numbers, the smaller"):
        read_image(path, pixel_range)


@pytest.mark.parametrize("read", [read_image, read_size, open_file])
def test_what_other_programs_would_run_for_is_not_opened(
    read: Callable[[str], object], tmp_path: Path
) -> None:
    """Pillow goes by the content, and starts Ghostscript for EPS."""
    path = tmp_path / "holiday.jpg"
    path.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n"
    )
    with pytest.raises(ValueError, match="EPS files are not read"):
        read(str(path))
