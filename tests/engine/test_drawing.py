"""Boxes and names in pictures: readable, apart from each other, in any script."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import font_manager
from PIL import Image, ImageChops, ImageDraw

from sssd.engine import drawing
from sssd.engine.drawing import DEJAVU, Rectangle, colour, draw, readable, shown


@pytest.fixture(autouse=True)
def _names_are_looked_up_anew() -> None:
    readable.cache_clear()


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> dict[str, Rectangle]:
    """Every text that is drawn, and the place of its letters."""
    drawn: dict[str, Rectangle] = {}
    write = ImageDraw.ImageDraw.text

    def text(
        canvas: ImageDraw.ImageDraw, xy: tuple, text: str, *style: object, **more: str
    ) -> None:
        drawn[text] = canvas.textbbox(xy, text, style[1], **more)
        write(canvas, xy, text, *style, **more)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return drawn


def objects(boxes: list[list[float]], scored: bool = True) -> dict[str, torch.Tensor]:
    """Boxes of the classes 0, 1, ..., with scores from 0.99 down."""
    found = {"boxes": torch.tensor(boxes), "labels": torch.arange(len(boxes))}
    return found | ({"scores": 0.99 - 0.01 * torch.arange(len(boxes))} if scored else {})


def test_an_object_is_shown_once() -> None:
    box = [5.0, 5.0, 30.0, 30.0]
    found = objects([box, box, [50.0, 5.0, 60.0, 9.0]])
    found["scores"] = torch.tensor([0.6, 0.9, 0.2])
    assert shown(found)["labels"].tolist() == [1, 2]
    pixels = torch.zeros(3, 40, 40, dtype=torch.uint8)
    assert draw(pixels, shown(found), ["a", "b", "c"]).getpixel((5, 28)) == colour(1)


@pytest.mark.parametrize(("height", "width"), [(480, 640), (3000, 4000), (64, 64)])
def test_lines_and_letters_follow_the_size_of_the_picture(
    height: int, width: int, texts: dict[str, Rectangle]
) -> None:
    box = [0.3 * width, 0.5 * height, 0.7 * width, 0.9 * height]
    picture = draw(torch.zeros(3, height, width, dtype=torch.uint8), objects([box]), ["Dog"])
    (_, top, _, bottom) = texts["Dog 0.99"]
    assert max(6, 0.01 * height) < bottom - top < max(14, 0.04 * height)
    row = np.asarray(picture)[int(0.7 * height), : width // 2]
    coloured = int((row == colour(0)).all(1).sum())
    assert coloured == max(1, round((width * height) ** 0.5 / 240))


def test_letters_are_legible_on_any_image_and_classes_differ() -> None:
    def luminance(rgb: tuple[int, ...]) -> float:  # WCAG 2
        linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    colours = [colour(label) for label in range(22)]
    assert min((luminance(c) + 0.05) / 0.05 for c in colours) > 4.5  # black on it; WCAG's AA
    apart = [
        sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5
        for place, one in enumerate(colours)
        for other in colours[:place]
    ]
    assert min(apart) > 30
    assert colour(22) == colour(0)


def test_texts_do_not_cover_each_other(texts: dict[str, Rectangle]) -> None:
    random = torch.Generator().manual_seed(0)
    corners = 480 * torch.rand(60, 2, generator=random)
    boxes = torch.cat([corners, corners + 20 + 60 * torch.rand(60, 2, generator=random)], 1)
    same = [[100.0, 100.0, 140.0, 140.0]] * 12  # more than there are places around one box
    pixels = torch.zeros(3, 480, 480, dtype=torch.uint8)
    names = [f"kind{label}" for label in range(72)]
    draw(pixels, objects([*same, *boxes.clamp(max=479).tolist()]), names)
    places = list(texts.values())
    assert 30 < len(places) < 72
    assert "kind0 0.99" in texts  # the surest
    assert all(min(place) >= 0 and max(place) <= 480 for place in places)
    for number, one in enumerate(places):
        for other in places[:number]:
            assert not drawing._shared(one, other)


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 3), (12, 12)])
def test_an_image_of_any_shape_is_drawn_into(size: tuple[int, int]) -> None:
    pixels = torch.zeros(3, *size, dtype=torch.uint8)
    picture = draw(pixels, objects([[0.0, 0.0, size[1], size[0]], [-5, -5, 0, 0]]), ["a", "b"])
    assert picture.size == size[::-1]
    assert max(draw(pixels, objects([]), ["a"], longest=48).size) == 48


def test_names_are_text(texts: dict[str, Rectangle]) -> None:
    names = ["$$", "$a_b$", "[stop]", "a[/b]", "{0} %s", "Жук", "λ", "إشارة", "a\n\tb", "x" * 300]
    boxes = [[20.0, 60.0 * row + 40, 300.0, 60.0 * row + 60] for row in range(len(names))]
    pixels = torch.zeros(3, 700, 900, dtype=torch.uint8)
    draw(pixels, objects(boxes, scored=False), names)
    *whole, long = texts
    assert whole == [*names[:-2], "a b"]
    assert long.endswith("x…")
    assert texts[long][2] - texts[long][0] < 320


def make_font(path: Path, characters: str) -> Path:
    """A font whose only letters are squares."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    pen.moveTo((100, 0)), pen.lineTo((100, 700)), pen.lineTo((800, 700)), pen.lineTo((800, 0))
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(c): "square" for c in characters})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (900, 0), "square": (900, 100)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


def test_a_font_of_the_system_draws_what_ours_can_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    font = make_font(tmp_path / "squares.ttf", "猫 0123456789.")
    installed = [*(str(path) for path in tmp_path.iterdir()), str(DEJAVU)]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: installed)
    assert readable("猫", "class 0") == ("猫", font)
    with pytest.warns(
        UserWarning, match=r"no installed font can draw the name '犬🚗': .* 'class 1'"
    ):
        assert readable("犬🚗", "class 1") == ("class 1", DEJAVU)
    pixels = torch.zeros(3, 100, 200, dtype=torch.uint8)
    cat, other = (
        draw(pixels, objects([[20.0, 50.0, 180.0, 90.0]]), [n]) for n in ("猫", "class 0")
    )
    assert ImageChops.difference(cat, other).getbbox() is not None
    assert isinstance(cat, Image.Image)
