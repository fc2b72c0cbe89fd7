"""A report's blocks as Markdown."""

import html
from collections.abc import Sequence
from typing import Any

from sssd.report.page import Block, Code, Heading, Picture, Table, Text, Verdict


def markdown(blocks: Sequence[Block]) -> str:
    """The blocks as Markdown; a picture is a file beside it."""
    return "\n".join(f"{_markdown(block)}\n" for block in blocks)


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {_line(block.text)}"
    if isinstance(block, Text | Verdict):
        return _line(block.text)
    if isinstance(block, Code):
        return f"```\n{block.text}\n```"
    if isinstance(block, Picture):
        return f"![{block.title}]({block.name}.svg)"
    assert isinstance(block, Table), "a comparison has no other"
    rows = [block.head, ["---"] * len(block.head), *block.rows]
    cells = (
        [_line(cell).replace("\\", "\\\\").replace("|", "\\|") for cell in row] for row in rows
    )
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _line(text: Any) -> str:
    """In one line, without HTML: names are those of strangers."""
    return html.escape(" ".join(str(text).split()), quote=False)
