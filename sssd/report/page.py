"""Blocks of a report, and the HTML page that they make: one file that needs nothing beside it."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Union

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2328; background: #fff; max-width: 1080px;
  margin: 2rem auto; padding: 0 1.2rem; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.25; margin-bottom: 1rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; border-bottom: 1px solid #d8dee4; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
nav { font-size: .88rem; margin: .8rem 0 1.2rem; } nav a { margin-right: .9rem; color: #0550ae; }
.scroll { overflow: auto; margin: .6rem 0 1.2rem; max-height: 46rem; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .5rem; border-bottom: 1px solid #e6e8eb; text-align: right;
  white-space: nowrap; }
th { background: #f6f8fa; font-weight: 600; vertical-align: bottom; position: sticky; top: 0; }
th:first-child, td:first-child, .words th, .words td { text-align: left; }
figure { margin: 0; }
figcaption { font-size: .82rem; color: #424a53; margin-bottom: .25rem; }
svg, img { max-width: 100%; height: auto; display: block; }
.wide { overflow-x: auto; } .wide > svg, .wide > img { max-width: none; width: 100%;
  min-width: 680px; }
.grid { display: grid; gap: 1rem 1.4rem; margin: .6rem 0 1rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); }
.pair { display: flex; flex-wrap: wrap; gap: .4rem .8rem; margin: .4rem 0 1rem; }
@media (min-width: 700px) { .pair figure { max-width: calc(50% - .4rem); } }
.pair img { max-height: 380px; width: auto; }
.numbers { display: grid; gap: .6rem; margin: .8rem 0;
  grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
.numbers div { background: #f6f8fa; border-radius: 6px; padding: .5rem .7rem; font-size: .78rem;
  line-height: 1.35; color: #424a53; }
.numbers b { display: block; font-size: 1.35rem; color: #1f2328;
  font-variant-numeric: tabular-nums; }
pre { background: #f6f8fa; padding: .8rem; overflow-x: auto; font-size: .82rem; }
.go { color: #1a7f37; } .no-go { color: #b42318; } .inconclusive { color: #8a6d00; }
.verdict { font-size: 1.05rem; margin: .35rem 0; padding: .5rem .8rem; background: #f6f8fa;
  border-left: 4px solid currentColor; }
.verdict span { color: #1f2328; }
"""


@dataclass(frozen=True)
class Heading:
    """A title; level 1 is the page's."""

    level: int
    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph; **bold** is the only mark."""

    text: str


@dataclass(frozen=True)
class Verdict:
    """A paragraph of what was decided: GO, NO-GO or INCONCLUSIVE, which gives it its colour."""

    name: str
    text: str


@dataclass(frozen=True)
class Code:
    """Lines to copy."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows under a head; numbers, if not `words`, are aligned on the right."""

    head: Sequence[str]
    rows: Sequence[Sequence[Any]]
    words: bool = False


@dataclass(frozen=True)
class Picture:
    """SVG text, and the name of a file that it may be written to; wide as of `Photo`."""

    name: str
    title: str
    svg: str
    wide: bool = False


@dataclass(frozen=True)
class Photo:
    """The bytes of an image file and what is seen; a wide one is scrolled on a small screen."""

    title: str
    data: bytes
    kind: str = "jpeg"
    wide: bool = False


@dataclass(frozen=True)
class Numbers:
    """Numbers that are read first: name, value and a few words of each."""

    rows: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Grid:
    """Blocks beside each other in columns, as many as there is room for."""

    blocks: Sequence["Block"]


@dataclass(frozen=True)
class Pair:
    """Photos to compare, low enough that two stand beside each other."""

    photos: Sequence[Photo]


Block = Union[  # noqa: UP007  recursive
    Heading, Text, Verdict, Code, Table, Picture, Photo, Numbers, Grid, Pair
]


def html(blocks: Sequence[Block], title: str) -> str:
    """The blocks as a page, with links to its headings of level 2 if they are many."""
    parts = [_html(block) for block in blocks]
    heads = [block.text for block in blocks if isinstance(block, Heading) and block.level == 2]
    if len(heads) > 7:
        links = "".join(f'<a href="#{_anchor(text)}">{escape(text)}</a> ' for text in heads)
        first = next(i for i, b in enumerate(blocks) if isinstance(b, Heading) and b.level == 2)
        parts.insert(first, f"<nav>{links}</nav>")
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        level, text = block.level, escape(block.text)
        return f'<h{level} id="{_anchor(block.text)}">{text}</h{level}>'
    if isinstance(block, Code):
        return f"<pre>{escape(block.text)}</pre>"
    if isinstance(block, Picture):
        kind = ' class="wide"' if block.wide else ""
        return f'<figure{kind} role="img" aria-label="{escape(block.title)}">{block.svg}</figure>'
    if isinstance(block, Photo):
        return _photo(block)
    if isinstance(block, Numbers):
        cells = (
            f"<div>{escape(name)}<b>{escape(value)}</b>{escape(words)}</div>"
            for name, value, words in block.rows
        )
        return f'<div class="numbers">{"".join(cells)}</div>'
    if isinstance(block, Grid):
        return f'<div class="grid">{"".join(map(_html, block.blocks))}</div>'
    if isinstance(block, Pair):
        return f'<div class="pair">{"".join(map(_photo, block.photos))}</div>'
    if isinstance(block, Table):
        return _table(block)
    text = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", escape(block.text))
    if isinstance(block, Verdict):
        return f'<p class="verdict {block.name.lower()}"><span>{text}</span></p>'
    return f"<p>{text}</p>"


def _photo(block: Photo) -> str:
    data, title = base64.b64encode(block.data).decode(), escape(block.title)
    image = f'<img src="data:image/{block.kind};base64,{data}" alt="{title}" />'
    if block.wide:
        image = f'<div class="wide">{image}</div>'
    return f"<figure><figcaption>{title}</figcaption>{image}</figure>"


def _table(block: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in block.head)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in block.rows
    )
    kind = ' class="words"' if block.words else ""
    table = f"<table{kind}><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def _anchor(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-")
