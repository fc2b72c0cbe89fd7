"""The divergence operator in Triton: the contract of csrc/divergence.cpp.

Forward is two launches a level, backward one. What concerns rows alone (statistics of their pieces,
what normalises them, the value of a level) is plain PyTorch on a few numbers a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from sssd.ops.divergence_kernels import CHOICES, TRITON_PLANES, rows_and_elements
from sssd.ops.reference.divergence import REDUCED, ROOT_FLOOR
from sssd.ops.triton import divergence_kernels as kernels

# Of a program, if neighbours in memory are rows, or elements: rows, and elements of them at a time.
TILES = {True: (64, 8), False: (2, 256)}
PROGRAMS = 1024  # that fill any GPU
BLOCKS_A_PIECE = 16  # at least, so that what a piece leaves is little beside the maps


class Call:
    """The settings of the schema, enumerations by their names."""

    def __init__(self, *given: Any) -> None:
        named = [choices[i] for choices, i in zip(CHOICES.values(), given[:6], strict=True)]
        self.over, self.normalize, self.divergence, self.root, self.rows, self.elements = named
        self.unbiased, self.temperature, self.eps = given[6:]
        self.scale = 1 / (self.temperature * math.log(2))  # from logits to base 2
        self.plain = self.normalize == "none" and self.divergence != "cosine"
        self.constants = {"NORMALIZE": given[1], "DIVERGENCE": given[2]}


class Layout(NamedTuple):
    """A level seen as rows, in the order of the kernels' arguments.

    Row (o, i) starts at o outer_stride + i; its element (s, j) lies s segment_stride + j inner on.
    """

    rows: int
    inner: int
    outer_stride: int
    length: int  # elements of a segment
    segment_stride: int
    pieces: int  # of a row, each within a segment
    parts: int  # pieces of a segment
    piece_length: int

    @property
    def constants(self) -> dict[str, Any]:
        """What the kernels are compiled for."""
        strided = self.inner > 1  # neighbours in memory are neighbouring rows
        return {"STRIDED": strided, "ROWS": TILES[strided][0], "BLOCK": TILES[strided][1]}

    @property
    def grid(self) -> tuple[int]:
        """Programs: one for each piece of a tile of rows."""
        rows = TILES[self.inner > 1][0]
        if self.inner > 1:
            return (self.rows // self.inner * triton.cdiv(self.inner, rows) * self.pieces,)
        return (triton.cdiv(self.rows, rows) * self.pieces,)


def layout_of(x: Tensor, over: str) -> Layout:
    """How the rows of a map (B, C, H, W), in either memory format, lie, cut into enough pieces."""
    sizes = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    whole = sizes[1] * sizes[2]
    strides = (whole, sizes[2], 1) if x.is_contiguous() else (whole, 1, sizes[1])
    reduced = {min(d, 2) for d in REDUCED[over]}
    kept = [d for d in range(3) if d not in reduced and sizes[d] > 1]
    inner = sizes[kept[-1]] if kept and strides[kept[-1]] == 1 else 1
    outer_stride = strides[kept[-1 if inner == 1 else 0]] if kept else whole
    far, near = max(reduced, key=lambda d: strides[d]), min(reduced, key=lambda d: strides[d])
    segments, segment_stride, length = 1, whole, sizes[near]
    if far != near and strides[far] == length * strides[near]:  # they follow each other
        length *= sizes[far]
    elif far != near:
        segments, segment_stride = sizes[far], strides[far]
    rows = x.numel() // (segments * length)
    uncut = Layout(rows, inner, outer_stride, length, segment_stride, segments, 1, length)
    block = uncut.constants["BLOCK"]
    most = triton.cdiv(length, block * BLOCKS_A_PIECE)
    parts = max(1, min(PROGRAMS // uncut.grid[0], most))
    piece_length = triton.cdiv(triton.cdiv(length, parts), block) * block
    parts = triton.cdiv(length, piece_length)
    return uncut._replace(pieces=segments * parts, parts=parts, piece_length=piece_length)


def levels_of(
    call: Call, sizes: Sequence[tuple[int, int]], *sides: Sequence[Tensor]
) -> Iterator[tuple[Layout, slice, list[Tensor]]]:
    """Of each level with elements: layout, place of its rows among all, and its maps."""
    first = 0
    for (rows, _), *maps in zip(sizes, *sides, strict=True):
        if maps[0].numel():
            yield layout_of(maps[0], call.over), slice(first, first + rows), maps
        first += rows


class Rows(NamedTuple):
    """What normalises the rows of both sides, in double, (2, rows) each.

    Softmax rows: the largest logit, and the logarithm, to base 2, of the sum that follows from it.
    Others: mean, factor, |y|^2 (1 but for rows shorter than eps, which are divided by eps, where
    cosine asks), and slope, bend: the gradient loses (slope sum(u) + bend) y of u = y df/dy.
    """

    shift: Tensor
    inner: Tensor
    square: Tensor | float = 1.0
    slope: Tensor | float = 1.0
    bend: Tensor | float = 0.0


def joined(call: Call, stats: Tensor, layout: Layout) -> Tensor:
    """Statistics of rows, (2, 2, rows), from those of their pieces, (2, 2, pieces, rows)."""
    stat, total = stats.double().unbind(1)
    if call.normalize == "softmax":
        top = stat.amax(1, keepdim=True)
        anchor = torch.where(top == -math.inf, 0.0, top)
        total = total * ((stat - anchor) * call.scale).exp2()
        return torch.stack((top[:, 0], total.sum(1)), 1)
    numbers = stat.new_full((layout.pieces, 1), layout.piece_length)
    numbers[layout.parts - 1 :: layout.parts] -= layout.parts * layout.piece_length - layout.length
    mean = (stat * numbers).sum(1, keepdim=True) / numbers.sum()
    return torch.stack((mean[:, 0], (total + numbers * (stat - mean).square()).sum(1)), 1)


def rows_of(call: Call, stats: Tensor, count: Tensor) -> Rows:
    """From the statistics of rows, (2, 2, rows), of so many elements each."""
    shift, total = stats.unbind(1)
    if call.normalize == "softmax":
        return Rows(shift, total.log2())
    if call.plain:
        return Rows(shift, torch.ones_like(shift), slope=0.0)
    if call.normalize == "standardize" and call.divergence != "cosine":
        if not call.unbiased:
            return Rows(shift, (total / count + call.eps).rsqrt(), slope=1 / count)
        freedom = (count - 1).clamp(min=1)
        deviation = (total / freedom).sqrt()
        slope = torch.where(deviation == 0, 0.0, (deviation + call.eps) / (freedom * deviation))
        return Rows(shift, 1 / (deviation + call.eps), slope=slope)
    short = total.sqrt() < call.eps
    inner = 1 / torch.where(short, call.eps, total.sqrt())
    bend = short.double() if call.divergence == "cosine" else 0.0
    return Rows(shift, inner, torch.where(short, total * inner.square(), 1.0), ~short, bend)


def divergence_forward(
    student: Sequence[Tensor], teacher: Sequence[Tensor], row_weights: Sequence[Tensor], *given: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Values and factors, (P,), and the saved planes, (9, rows).

    The planes: the divergence; of both sides `Rows.shift`, then `Rows.inner`; of softmax rows delta
    (see `normalized` in the kernels); of both sides what the gradient loses; the rounding of
    delta, which softmax MSE feels.
    """
    call = Call(*given)
    sizes = [rows_and_elements(x, given[0]) for x in student]
    total = sum(n for n, _ in sizes)
    new = student[0].new_zeros
    saved = new(TRITON_PLANES, total, dtype=torch.float32)
    stats = new(2, 2, total, dtype=torch.float64)
    sums = new(4, total, dtype=torch.float32)
    count = torch.cat([new(n, dtype=torch.float64) + length for n, length in sizes])
    levels = [*levels_of(call, sizes, student, teacher)]
    for layout, place, maps in [] if call.plain else levels:
        pieces = sums.new_empty(2, 2, layout.pieces, layout.rows)
        kernels.statistics_kernel[layout.grid](
            *maps, pieces, *layout, call.scale, NORMALIZE=given[1], **layout.constants
        )
        stats[..., place] = joined(call, pieces, layout)
    rows = rows_of(call, stats, count)
    dead = (rows.inner == -math.inf).any(0)  # softmax rows with only -inf on a side: they count 0
    saved[1:3] = torch.where(dead, -math.inf, rows.shift)
    saved[3:5] = rows.inner

    def add_up_terms() -> None:
        for layout, place, maps in levels:
            pieces = sums.new_empty(4, layout.pieces, layout.rows)
            kernels.terms_kernel[layout.grid](
                *maps, saved[:, place], pieces, *layout, total, call.scale, **call.constants,
                **layout.constants,
            )  # fmt: skip
            sums[:, place] = pieces.sum(1)

    softmax = call.normalize == "softmax"
    if softmax:
        saved[5] = -(rows.shift * call.scale + rows.inner).diff(dim=0)[0]
    add_up_terms()
    if softmax and call.divergence == "mse":  # its gaps feel the rounding of delta: 0 is their sum
        saved[8] = sums[3] / math.log(2)
        add_up_terms()
    saved[0] = sums[0]
    if call.divergence == "cosine":
        saved[0] += 1 - 0.5 * torch.as_tensor(rows.square).sum(0)
    saved[0].masked_fill_(dead | (count == 0), 0.0)
    if not call.plain:
        saved[6:8] = sums[1:3] * rows.slope + rows.bend
    return *values_of(call, saved[0], sizes, row_weights), saved


def shares_of(call: Call, each: Tensor, sizes: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """What rows add to their levels before weights, and the slope of that by their divergences."""
    slope = torch.ones_like(each)
    if call.elements == "mean":
        for part, (_, length) in zip(slope.split([n for n, _ in sizes]), sizes, strict=True):
            part.div_(max(1, length))
    share = each * slope
    if call.root != "row":
        return share, slope
    flat, root = share <= ROOT_FLOOR, share.sqrt()
    return root, torch.where(flat, 0.0, 0.5 * slope / torch.where(flat, 1.0, root))


def values_of(
    call: Call, each: Tensor, sizes: Sequence[tuple[int, int]], row_weights: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Values of levels from the divergences of their rows, and their slopes by a row's share."""
    share, _ = shares_of(call, each, sizes)
    weights = [w.flatten() for w in row_weights] or [each.new_ones(n) for n, _ in sizes]
    weight = torch.cat(weights)
    share = torch.where(weight == 0, 0.0, share * weight)  # a row left out may hold NaN
    value = torch.stack([part.sum() for part in share.split([n for n, _ in sizes])])
    slope = torch.ones_like(value)
    if call.rows == "mean":
        total = torch.stack([w.sum() for w in weights])
        slope = torch.where(total == 0, 0.0, 1 / torch.where(total == 0, 1.0, total))
        value = torch.where(total == 0, 0.0, value * slope)
    if call.root == "level":
        flat, value = value <= ROOT_FLOOR, value.sqrt()
        slope = torch.where(flat, 0.0, slope * 0.5 / torch.where(flat, 1.0, value))
    return value, slope


def divergence_backward(
    grad_values: Tensor, student: Sequence[Tensor], teacher: Sequence[Tensor],
    row_weights: Sequence[Tensor], factors: Tensor, saved: Tensor, *given: Any,
) -> tuple[list[Tensor], list[Tensor]]:  # fmt: skip
    """The gradients of the sides that need one."""
    *settings, need_student, need_teacher = given
    call, sizes = Call(*settings), [rows_and_elements(x, settings[0]) for x in student]
    grads = [
        [torch.empty_like(x) for x in side] if needed else []
        for side, needed in ((student, need_student), (teacher, need_teacher))
    ]
    _, slopes = shares_of(call, saved[0], sizes)
    # Nothing pulls at rows that are infinitely far apart, or dead.
    nowhere = (saved[0] == math.inf) | ((saved[0] == 0) & (saved[1] == -math.inf))
    if row_weights:
        weight = torch.cat([w.flatten() for w in row_weights])
        slopes, nowhere = slopes * weight, nowhere | (weight == 0)
    parts = zip(slopes.split([n for n, _ in sizes]), grad_values * factors, strict=True)
    slopes = torch.cat([part * grad for part, grad in parts]).masked_fill(nowhere, 0.0)
    targets = grads[0] or student, grads[1] or teacher  # nothing is written to a map
    for layout, place, maps in levels_of(call, sizes, student, teacher, *targets):
        kernels.backward_kernel[layout.grid](
            *maps, saved[:, place], slopes[place], *layout, saved.shape[1], call.scale,
            **call.constants, NEED_STUDENT=need_student, NEED_TEACHER=need_teacher,
            **layout.constants,
        )  # fmt: skip
    return grads[0], grads[1]
