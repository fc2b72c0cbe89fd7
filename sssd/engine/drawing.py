"""Boxes and their names drawn into an image: the pictures of `predict` and of a training run."""

import colorsys
import math
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.ops import nms
from torchvision.transforms.v2.functional import to_pil_image

DEJAVU = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
HUES = (120, 30, 200, 320, 60, 270, 170, 0, 90, 235, 295)  # degrees, as far apart as one sees
CROWD = 12  # objects in a picture, from which on letters become smaller
Rectangle = tuple[float, float, float, float]  # left, top, right, bottom


def shown(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The detections of an image that a picture shows: one box an object.

    Second guesses of the class would be drawn over the first.

    Args:
        found: boxes (n, 4) xyxy, scores (n,) and labels (n,).

    Returns:
        The same of fewer detections, the best first.
    """
    keep = nms(found["boxes"], found["scores"], iou_threshold=0.5)
    return {name: value[keep].cpu() for name, value in found.items()}


def draw(
    pixels: Tensor,
    objects: Mapping[str, Tensor],
    classes: Sequence[str],
    longest: int | None = None,
) -> Image.Image:
    """A picture of an image with boxes, each with its class and score.

    Every class has its colour. Lines and letters follow the size of the picture; in a crowd letters
    are smaller. A text takes, of the places around its box where it covers no other text, the one
    where it hides least of any object; where there is none it is left out: its box is not.

    Args:
        pixels: image (3, H, W) uint8.
        objects: boxes (n, 4) xyxy in pixels of the image and labels (n,) in 0..C-1; of detections,
            also scores (n,). The first of them are on top, and choose their places first.
        classes: names of the C classes.
        longest: side, in pixels, to bring the picture's longer side to; its own by default.
    """
    picture = to_pil_image(pixels)
    scale = longest / max(picture.size) if longest else 1.0
    if longest:
        size = (max(1, round(scale * picture.width)), max(1, round(scale * picture.height)))
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    side = math.sqrt(picture.width * picture.height)
    boxes, labels = (scale * objects["boxes"]).tolist(), objects["labels"].tolist()
    crowd = max(1.0, len(boxes) / CROWD) ** 0.5
    line, font_size = max(1, round(side / 240)), max(10, round(side / 40 / crowd))
    canvas = ImageDraw.Draw(picture)
    scores = objects["scores"].tolist() if "scores" in objects else [None] * len(labels)
    for box, label in reversed(list(zip(boxes, labels, strict=True))):
        _outline(canvas, box, colour(label), line)
    taken: list[Rectangle] = []
    for box, label, score in zip(boxes, labels, scores, strict=True):
        name, path = readable(classes[label], f"class {label}")
        font = _font(path, font_size)
        width = max(picture.width / 3, min(picture.width, 12 * font_size))
        text = _fitted(name, "" if score is None else f" {score:.2f}", font, width)
        ascent, descent = font.getmetrics()
        pad = line + 1
        size = (math.ceil(font.getlength(text)) + 2 * pad, ascent + descent + 2)
        places = [
            place
            for place in _places(box, size, picture.size)
            if not any(_shared(place, other) for other in taken)
        ]
        if places:  # of equal ones the first
            place = min(places, key=lambda place: _hidden(place, boxes))
            canvas.rectangle(place, fill=colour(label))
            canvas.text((place[0] + pad, place[1] + 1), text, "black", font, anchor="la")
            taken.append(place)
    return picture


def colour(label: int) -> tuple[int, int, int]:
    """The colour of a class, always the same, bright enough for black letters; 22 differ."""
    hue, saturation = HUES[label % len(HUES)], (1.0, 0.5)[label // len(HUES) % 2]
    rgb = colorsys.hsv_to_rgb(hue / 360, saturation, 1.0)
    bright = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]
    white = max(0.0, (0.5 - bright) / (1 - bright))
    red, green, blue = (round(255 * (c + white * (1 - c))) for c in rgb)
    return red, green, blue


@cache
def readable(name: str, otherwise: str) -> tuple[str, Path]:
    """A name as it can be drawn, in a line, and the font that can.

    That is DejaVu Sans, which comes with matplotlib (Latin, Greek, Cyrillic, Arabic, ...), or the
    first font of the system with all of the characters.

    Args:
        name: any text.
        otherwise: what stands for a name that no font can draw; a warning tells.
    """
    line = "".join(c if c.isprintable() else " " for c in unicodedata.normalize("NFC", name))
    line = " ".join(line.split())
    needed = {ord(c) for c in line}
    for path in _fonts():
        if _has(path, needed):
            return line or otherwise, path
    warnings.warn(
        f"no installed font can draw the name {name!r}: pictures show {otherwise!r} instead; "
        "install a font that has it, such as Noto Sans CJK (Debian: fonts-noto-cjk)",
        stacklevel=2,
    )
    return otherwise, DEJAVU


def _fonts() -> Iterator[Path]:
    yield DEJAVU
    for path in sorted(map(Path, font_manager.findSystemFonts())):
        if not path.name.startswith("LastResort"):  # it has a box for every character
            yield path


def _has(path: Path, characters: set[int]) -> bool:
    try:
        font = FT2Font(str(path))
    except (OSError, RuntimeError):  # a broken file
        return False
    return font.scalable and all(font.get_char_index(c) for c in characters)


@cache
def _font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


def _outline(canvas: ImageDraw.ImageDraw, box: Rectangle, fill: tuple[int, ...], line: int) -> None:
    """A box with a dark edge, which sets it off from a bright image."""
    x1, y1, x2, y2 = box
    edge = max(1, line // 2)
    x2, y2 = max(x1, x2), max(y1, y2)
    outer = (x1 - edge, y1 - edge, x2 + edge, y2 + edge)
    canvas.rectangle(outer, outline="black", width=line + 2 * edge)
    canvas.rectangle(box, outline=fill, width=line)


def _fitted(name: str, score: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """A name and a score, no wider than asked: the name is cut."""
    text = name + score
    while len(name) > 1 and font.getlength(text) > width:
        name = name[: len(name) * 9 // 10]
        text = f"{name}…{score}"
    return text


def _places(box: Rectangle, size: tuple[int, int], picture: tuple[int, int]) -> Iterator[Rectangle]:
    """Where a text may stand: above its box, below, beside and inside; the usual ones first."""
    (x1, y1, x2, y2), (width, height) = box, size
    for y in (y1 - height, y2, y1, y2 - height):
        for x in (x1, x2 - width, x2, x1 - width):
            left = min(max(x, 0), picture[0] - width)
            if 0 <= y <= picture[1] - height and left >= 0:
                yield left, y, left + width, y + height


def _shared(one: Rectangle, other: Rectangle) -> float:
    """Area that two rectangles share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def _hidden(place: Rectangle, boxes: Sequence[Rectangle]) -> float:
    """What a text hides: the shares of the boxes below it, so that small ones count most."""
    areas = (max(1.0, (x2 - x1) * (y2 - y1)) for x1, y1, x2, y2 in boxes)
    return sum(_shared(place, box) / area for box, area in zip(boxes, areas, strict=True))
