"""A report's blocks, as Markdown and as one HTML page that needs nothing beside it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2328; max-width: 1080px; margin: 2rem auto;
  padding: 0 1.2rem; }
h1 { font-size: 1.7rem; margin-bottom: 1rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid #d8dee4; }
table { border-collapse: collapse; font-size: .88rem; margin: .6rem 0 1.2rem; display: block;
  overflow-x: auto; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #e6e8eb; text-align: right;
  white-space: nowrap; }
th { background: #f6f8fa; font-weight: 600; white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 0; }
svg { max-width: 100%; height: auto; }
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
class Code:
    """Lines to copy."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows under a head."""

    head: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Picture:
    """SVG text, and the name of its file beside report.md."""

    name: str
    title: str
    svg: str


Block = Heading | Text | Code | Table | Picture


def markdown(blocks: Sequence[Block]) -> str:
    """The blocks as Markdown."""
    return "\n".join(f"{_markdown(block)}\n" for block in blocks)


def html(blocks: Sequence[Block], title: str) -> str:
    """The blocks as a page."""
    body = "\n".join(_html(block) for block in blocks)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {_line(block.text)}"
    if isinstance(block, Text):
        return _line(block.text)
    if isinstance(block, Code):
        return f"```\n{block.text}\n```"
    if isinstance(block, Picture):
        return f"![{block.title}]({block.name}.svg)"
    rows = [block.head, ["---"] * len(block.head), *block.rows]
    cells = ([_line(cell).replace("|", "\\|") for cell in row] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{escape(block.text)}</h{block.level}>"
    if isinstance(block, Code):
        return f"<pre>{escape(block.text)}</pre>"
    if isinstance(block, Picture):
        return f'<figure role="img" aria-label="{escape(block.title)}">{block.svg}</figure>'
    if isinstance(block, Text):
        text = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", escape(block.text))
        verdict = re.match(r"<b>.*: (GO|NO-GO|INCONCLUSIVE)</b>", text)
        if verdict:
            return f'<p class="verdict {verdict[1].lower()}"><span>{text}</span></p>'
        return f"<p>{text}</p>"
    head = "".join(f"<th>{escape(cell)}</th>" for cell in block.head)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in block.rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _line(text: Any) -> str:
    return " ".join(str(text).split())
