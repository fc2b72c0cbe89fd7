"""The divergence operator in Triton: the contract of csrc/divergence.cpp.

Forward is three launches a level, backward one. What the divergences of rows come to (elements,
root, weights, the value of a level) is plain PyTorch on one number a row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from sssd.ops.divergence_kernels import CHOICES, number, saved_planes
from sssd.ops.reference.divergence import REDUCED, ROOT_FLOOR
from sssd.ops.triton import divergence_kernels as kernels

ROOT_LEVEL, ROOT_ROW = number("root", "level"), number("root", "row")
# Of a program, if neighbours in memory are rows, or elements: rows, elements of them at a time, and
# pieces whose results it reads at a time.
TILES = {True: (64, 8, 4), False: (2, 256, 64)}
ROWS_AT_A_TIME = 16  # of a program of rows_kernel
PROGRAMS = 1024  # that fill any GPU
MOST_PARTS = 256
ELEMENTS_A_READ = 20  # a piece reads what all pieces say of a row: few, so that the maps are most


class Call(NamedTuple):
    """The settings of the schema."""

    over: int
    normalize: int
    divergence: int
    root: int
    rows: int
    elements: int
    unbiased: bool
    temperature: float
    eps: float

    @property
    def scale(self) -> float:
        """From logits to base 2."""
        return 1 / (self.temperature * math.log(2))

    @property
    def planes(self) -> int:
        """Numbers saved a row."""
        return saved_planes(self.normalize, self.divergence)

    @property
    def kept(self) -> list[int]:
        """The dimensions that number the rows."""
        return [d for d in range(4) if d not in REDUCED[CHOICES["over"][self.over]]]

    def rows_and_elements(self, x: Tensor) -> tuple[int, int]:
        """Of a map: rows, and elements of a row."""
        rows = math.prod(x.shape[d] for d in self.kept)
        return rows, x.numel() // max(1, rows)

    def share(self, count: int) -> float:
        """What the elements of a row are multiplied by."""
        return 1 / max(1, count) if self.elements == number("elements", "mean") else 1.0


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
        rows, block, _ = TILES[strided]
        return {"STRIDED": strided, "ROWS": rows, "BLOCK": block}

    @property
    def tiles(self) -> int:
        """Programs that cover the rows once."""
        rows = self.constants["ROWS"]
        if self.inner > 1:
            return self.rows // self.inner * triton.cdiv(self.inner, rows)
        return triton.cdiv(self.rows, rows)


def layout_of(x: Tensor, over: int) -> Layout:
    """How the rows of a map (B, C, H, W), in either memory format, lie, cut into enough pieces."""
    images, channels, cells = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    whole, last = channels * cells, not x.is_contiguous()
    name = CHOICES["over"][over]
    outer, inner, stride, segments, length = {
        "channels": (images, cells, whole, 1, channels),
        "cells": (images * channels, 1, cells, 1, cells),
        "image": (images, 1, whole, 1, whole),
        "images_and_cells": (channels, 1, cells, images, cells),
    }[name]
    if last and name != "image":
        outer, inner, stride, segments, length = {
            "channels": (images * cells, 1, channels, 1, channels),
            "cells": (images, channels, whole, 1, cells),
            "images_and_cells": (1, channels, whole, 1, images * cells),
        }[name]
    uncut = Layout(outer * inner, inner, stride, length, whole, segments, 1, length)
    few = math.isqrt(length * segments // ELEMENTS_A_READ) // segments
    parts = max(1, min(PROGRAMS // (uncut.tiles * segments), few, MOST_PARTS))
    block = uncut.constants["BLOCK"]
    piece_length = triton.cdiv(triton.cdiv(length, parts), block) * block
    parts = triton.cdiv(length, piece_length)
    return uncut._replace(pieces=segments * parts, parts=parts, piece_length=piece_length)


def divergence_forward(
    student: Sequence[Tensor], teacher: Sequence[Tensor], row_weights: Sequence[Tensor], *given: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Values and factors, (P,), and the saved planes, (planes, rows)."""
    call = Call(*given)
    sizes = [call.rows_and_elements(x) for x in student]
    new = student[0].new_empty
    # Zeros, since levels without elements have rows, too: of divergence 0.
    saved = student[0].new_zeros(call.planes, sum(n for n, _ in sizes), dtype=torch.float32)
    constants = {
        "NORMALIZE": call.normalize, "DIVERGENCE": call.divergence, "UNBIASED": call.unbiased,
        "PLANES": call.planes,
    }  # fmt: skip
    first = 0
    for a, b, (rows, _) in zip(student, teacher, sizes, strict=True):
        if a.numel():
            layout = layout_of(a, call.over)
            stats = new(5 if call.planes > 1 else 0, layout.pieces, rows, dtype=torch.float32)
            sums = new(3, layout.pieces, rows, dtype=torch.float32)
            grid = (layout.tiles * layout.pieces,)
            if call.planes > 1:
                kernels.statistics_kernel[grid](
                    a, b, stats, *layout, call.scale, NORMALIZE=call.normalize, **layout.constants
                )
            kernels.terms_kernel[grid](
                a, b, stats, sums, *layout, call.scale, call.eps, **constants,
                **layout.constants, PARTS=TILES[layout.inner > 1][2],
            )  # fmt: skip
            kernels.rows_kernel[(triton.cdiv(rows, ROWS_AT_A_TIME),)](
                stats, sums, saved[:, first:], rows, layout.pieces, saved.shape[1], call.scale,
                call.eps, **constants, ROWS=ROWS_AT_A_TIME, PARTS=16,
            )  # fmt: skip
        first += rows
    return *values_of(call, saved[0], sizes, row_weights), saved


def values_of(
    call: Call, each: Tensor, sizes: Sequence[tuple[int, int]], row_weights: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Values of levels from the divergences of their rows, and their slopes by a row's share."""
    values, totals = [], []
    for level, x in enumerate(each.split([rows for rows, _ in sizes])):
        share = x * call.share(sizes[level][1])
        if call.root == ROOT_ROW:
            share = share.sqrt()
        total = x.new_full((), float(len(x)))
        if row_weights:
            weights = row_weights[level].flatten()
            share = torch.where(weights == 0, 0.0, share * weights)  # a row left out may hold NaN
            total = weights.sum()
        values.append(share.sum())
        totals.append(total)
    value, total = torch.stack(values), torch.stack(totals)
    slope = torch.ones_like(value)
    if call.rows == number("rows", "mean"):
        slope = torch.where(total == 0, 0.0, 1 / torch.where(total == 0, 1.0, total))
        value = torch.where(total == 0, 0.0, value * slope)
    if call.root == ROOT_LEVEL:
        flat, value = value <= ROOT_FLOOR, value.sqrt()
        slope = torch.where(flat, 0.0, slope * 0.5 / torch.where(flat, 1.0, value))
    return value, slope


def slopes_of(
    call: Call, slope: Tensor, each: Tensor, count: int, weights: Tensor | None
) -> Tensor:
    """Of a level's value by the divergences of its rows, (rows,), from that by a row's share."""
    share = call.share(count)
    if weights is not None:
        slope = torch.where(weights == 0, 0.0, slope * weights)
    if call.root == ROOT_ROW:
        flat = each * share <= ROOT_FLOOR
        slope = torch.where(flat, 0.0, slope * 0.5 / torch.where(flat, 1.0, each * share).sqrt())
    return (slope * share).expand(each.shape).contiguous()


def divergence_backward(
    grad_values: Tensor,
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    row_weights: Sequence[Tensor],
    factors: Tensor,
    saved: Tensor,
    *given: Any,
) -> tuple[list[Tensor], list[Tensor]]:
    """The gradients of the sides that need one."""
    *settings, need_student, need_teacher = given
    call = Call(*settings)
    grads = tuple(
        [torch.empty_like(x) for x in side] if needed else []
        for side, needed in ((student, need_student), (teacher, need_teacher))
    )
    slope, first = grad_values * factors, 0
    for level, (a, b) in enumerate(zip(student, teacher, strict=True)):
        rows, count = call.rows_and_elements(a)
        if a.numel():
            planes, layout = saved[:, first:], layout_of(a, call.over)
            weights = row_weights[level].flatten() if row_weights else None
            kernels.backward_kernel[(layout.tiles * layout.pieces,)](
                a, b, grads[0][level] if need_student else a,
                grads[1][level] if need_teacher else b, planes,
                slopes_of(call, slope[level], planes[0, :rows], count, weights),
                *layout, saved.shape[1], call.scale,
                NORMALIZE=call.normalize, DIVERGENCE=call.divergence, PLANES=call.planes,
                NEED_STUDENT=need_student, NEED_TEACHER=need_teacher, **layout.constants,
            )  # fmt: skip
        first += rows
    return grads[0], grads[1]
