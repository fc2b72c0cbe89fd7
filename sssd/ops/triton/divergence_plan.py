"""How the levels of a call become launches of the Triton kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import triton
from torch import Tensor

CHANNELS, CELLS, IMAGE, CHANNEL = range(4)
ELEMENTS_OF_A_PROGRAM = 1024  # at a time
ROWS_TO_FINISH = 32  # of a program, where rows were cut into pieces
ENOUGH_PROGRAMS = 256  # to fill any GPU
BLOCKS_OF_A_PIECE = 16  # at least: shorter rows are not cut
MOST_LEVELS = 16  # of a launch: they travel as its arguments


class Layout(NamedTuple):
    """A level seen as rows: the table of kernels/common/levels.h."""

    outer: int
    segments: int
    length: int
    inner: int
    outer_stride: int
    segment_stride: int

    @property
    def rows(self) -> int:
        """How many."""
        return self.outer * self.inner

    @property
    def elements(self) -> int:
        """Elements of one."""
        return self.segments * self.length


class Geometry(NamedTuple):
    """What the kernels are told of a level, in this order (rows.find_level)."""

    program0: int  # first program of the launch that works on it
    partial0: int  # first of its partial sums
    outer: int
    segments: int
    length: int
    inner: int
    outer_stride: int
    segment_stride: int
    row0: int
    pieces: int  # of a row
    piece_length: int
    slot0: int  # of its first piece: slot0 + piece * rows + row


class Kind(NamedTuple):
    """What the kernels are compiled for: levels of one kind share a launch."""

    STRIDED: bool
    SEGMENTED: bool
    SPLIT: bool  # rows are cut into pieces
    ALIGNED: bool  # sizes and addresses allow whole vectors


class Group(NamedTuple):
    """The levels of a launch."""

    kind: Kind
    rows: int  # of a program
    block: int  # elements that it takes at a time
    levels: list[int]  # their numbers in the call
    geometry: tuple[Geometry, ...]
    programs: int
    slots: int

    def constants(self) -> dict[str, Any]:
        """What the kernels are compiled for."""
        return self.kind._asdict() | {"ROWS": self.rows, "BLOCK": self.block}

    def maps(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Those of these levels."""
        return tuple(tensors[i] for i in self.levels)

    def finish(self) -> tuple[tuple[Geometry, ...], int]:
        """The geometry, and the number of programs, that finish rows cut into pieces."""
        counts = [triton.cdiv(g.outer * g.inner, ROWS_TO_FINISH) for g in self.geometry]
        starts = [sum(counts[:i]) for i in range(len(counts))]
        renumbered = (
            g._replace(program0=start) for g, start in zip(self.geometry, starts, strict=True)
        )
        return tuple(renumbered), sum(counts)


class Plan(NamedTuple):
    """All launches of a pass."""

    groups: list[Group]
    rows: int
    partials: list[tuple[int, int]]  # of each level of the call: the first one, and how many


def layout_of(x: Tensor, over: int) -> Layout:
    """How the rows of a map lie in memory."""
    images, channels, height, width = x.shape
    cells, whole = height * width, channels * height * width
    last = not x.is_contiguous()
    if over == CHANNELS:
        if last:
            return Layout(images * cells, 1, channels, 1, channels, 0)
        return Layout(images, 1, channels, cells, whole, 0)
    if over == CELLS:
        if last:
            return Layout(images, 1, cells, channels, whole, 0)
        return Layout(images * channels, 1, cells, 1, cells, 0)
    if over == IMAGE:
        return Layout(images, 1, whole, 1, whole, 0)
    if last:
        return Layout(1, 1, images * cells, channels, whole, 0)
    return Layout(channels, images, cells, 1, cells, whole)


def shape_of(kind: Kind, layouts: Sequence[Layout]) -> tuple[int, int]:
    """Rows of a program, and elements of them that it takes at a time."""
    longest = triton.next_power_of_2(max(layout.elements for layout in layouts))
    if kind.STRIDED:
        return 32, min(longest, ELEMENTS_OF_A_PROGRAM // 32)
    block = min(longest, ELEMENTS_OF_A_PROGRAM)
    return max(1, ELEMENTS_OF_A_PROGRAM // 2 // block), block


def tiles_of(layout: Layout, rows: int) -> int:
    """Programs that cover the rows of a level once."""
    if layout.inner > 1:
        return layout.outer * triton.cdiv(layout.inner, rows)
    return triton.cdiv(layout.outer, rows)


def pieces_of(layout: Layout) -> int:
    """Into how many pieces forward cuts a row: several if rows are long and few."""
    rows, block = shape_of(Kind(layout.inner > 1, False, False, False), [layout])
    # Every piece reads the statistics of all: few enough that this is a twentieth of the maps.
    cheap = math.isqrt(layout.elements // 40)
    wanted = ENOUGH_PROGRAMS // tiles_of(layout, rows)
    return max(1, min(triton.cdiv(layout.elements, BLOCKS_OF_A_PIECE * block), wanted, cheap))


def plan(maps: Sequence[Sequence[Tensor]], over: int, backward: bool) -> Plan:
    """The launches over all levels.

    Args:
        maps: lists of the tensors of all levels that must allow whole vectors: student, teacher,
            and the gradients.
        over: what a row runs over.
        backward: every block of a row is a program of its own.

    Returns:
        The launches; levels without elements are in none.
    """
    layouts = [layout_of(x, over) for x in maps[0]]
    row0 = [sum(layout.rows for layout in layouts[:i]) for i in range(len(layouts) + 1)]
    kinds: dict[Kind, list[int]] = {}
    for i, layout in enumerate(layouts):
        if maps[0][i].numel():
            sizes = (layout.inner if layout.inner > 1 else layout.length, layout.outer_stride)
            aligned = all(n % 8 == 0 for n in (*sizes, layout.segment_stride))
            aligned &= all(side[i].data_ptr() % 16 == 0 for side in maps)
            split = not backward and pieces_of(layout) > 1
            kind = Kind(layout.inner > 1, layout.segments > 1, split, aligned)
            kinds.setdefault(kind, []).append(i)
    groups: list[Group] = []
    partials = [(0, 0)] * len(layouts)
    partial0 = 0
    for kind, levels in kinds.items():
        for some in (levels[i : i + MOST_LEVELS] for i in range(0, len(levels), MOST_LEVELS)):
            rows, block = shape_of(kind, [layouts[i] for i in some])
            geometry, program0, slot0 = [], 0, 0
            for i in some:
                layout, tiles = layouts[i], tiles_of(layouts[i], rows)
                length = block if backward else layout.elements
                if kind.SPLIT:
                    length = triton.cdiv(triton.cdiv(length, pieces_of(layout)), block) * block
                pieces = triton.cdiv(layout.elements, length)
                geometry.append(
                    Geometry(program0, partial0, *layout, row0[i], pieces, length, slot0)
                )
                finished = triton.cdiv(layout.rows, ROWS_TO_FINISH) if kind.SPLIT else tiles
                partials[i] = partial0, finished
                program0 += tiles * pieces
                slot0 += layout.rows * pieces * kind.SPLIT
                partial0 += partials[i][1]
            groups.append(Group(kind, rows, block, some, tuple(geometry), program0, slot0))
    return Plan(groups, row0[-1], partials)
