"""The divergence operator in Triton: the contract of csrc/divergence.cpp, two launches a level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from sssd.ops.triton import divergence_kernels as kernels

# Numbers of the schema, in the order of kernels/divergence/divergence.h.
CHANNELS, CELLS, IMAGE, CHANNEL = range(4)
NONE, SOFTMAX, STANDARDIZE, L2 = range(4)
JS, KL, MSE, COSINE = range(4)
LN2 = 0.6931471805599453
ELEMENTS_OF_A_PROGRAM = 1024


class Call(NamedTuple):
    """The settings of the schema, as numbers."""

    over: int
    normalize: int
    divergence: int
    root: int
    rows: int
    elements: int
    unbiased: bool
    temperature: float
    beta: float
    eps: float

    @property
    def member(self) -> int:
        """JS, JS with beta, KL, squared error of softmaxes, or affine rows."""
        if self.normalize != SOFTMAX:
            return 4
        return {JS: 0 if self.beta == 0.5 else 1, KL: 2, MSE: 3}[self.divergence]

    @property
    def planes(self) -> int:
        """Numbers saved a row."""
        if self.member == 4:
            return 1 if self.normalize == NONE and self.divergence == MSE else 7
        return (4, 4, 3, 5)[self.member]

    @property
    def gradient_scale(self) -> float:
        """What every gradient of the member is multiplied by."""
        if self.member == 4:
            return 1.0 if self.divergence == COSINE else 2.0
        return (0.5, 1.0, 1.0, 2.0)[self.member] / self.temperature


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

    def block(self) -> tuple[int, int]:
        """Rows of a program, and elements of them that it takes at a time."""
        if self.inner > 1:
            return 32, min(triton.next_power_of_2(self.elements), ELEMENTS_OF_A_PROGRAM // 32)
        block = min(triton.next_power_of_2(self.elements), ELEMENTS_OF_A_PROGRAM)
        return max(1, ELEMENTS_OF_A_PROGRAM // 2 // block), block

    def programs(self) -> int:
        """That cover the rows."""
        rows, _ = self.block()
        if self.inner > 1:
            return self.outer * triton.cdiv(self.inner, rows)
        return triton.cdiv(self.outer, rows)


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


def why_not(**settings: Any) -> str:
    """What keeps Triton from a call: nothing, it serves the whole family."""
    return ""


def divergence_forward(
    student: Sequence[Tensor], teacher: Sequence[Tensor], row_weights: Sequence[Tensor], *given: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Values and factors, (P,), and the saved planes, (planes, rows)."""
    call = Call(*given)
    layouts = [layout_of(x, call.over) for x in student]
    new = student[0].new_empty
    rows = sum(layout.rows for layout in layouts)
    saved = new(call.planes, rows, dtype=torch.float32)
    values, factors = new(2, len(layouts), dtype=torch.float32).unbind()
    row0 = 0
    for i, layout in enumerate(layouts):
        programs = layout.programs() if student[i].numel() else 0
        partials = new(max(programs, 1), 2, dtype=torch.float32)
        if programs:
            row_block, block = layout.block()
            kernels.forward_kernel[(programs,)](
                student[i], teacher[i], row_weights[i] if row_weights else partials, saved,
                partials, *layout, row0, rows, *forward_numbers(call, layout),
                **forward_constants(call, layout, bool(row_weights)),
                ROWS=row_block, BLOCK=block,
            )  # fmt: skip
        kernels.finish_kernel[(1,)](
            partials, values[i:], factors[i:], programs,
            ROOT=call.root, MEAN=call.rows == 0, BLOCK=1024,
        )  # fmt: skip
        row0 += layout.rows
    return values, factors, saved


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
    row0 = 0
    for i, (a, b) in enumerate(zip(student, teacher, strict=True)):
        layout = layout_of(a, call.over)
        if a.numel() and (need_student or need_teacher):
            row_block, block = layout.block()
            kernels.backward_kernel[(layout.programs(), triton.cdiv(layout.elements, block))](
                a, b, grads[0][i] if need_student else a, grads[1][i] if need_teacher else b,
                row_weights[i] if row_weights else saved, saved, factors[i:], grad_values[i:],
                *layout, row0, saved.shape[1], *backward_numbers(call, layout),
                **backward_constants(call, layout, bool(row_weights)),
                NEED_STUDENT=need_student, NEED_TEACHER=need_teacher, ROWS=row_block, BLOCK=block,
            )  # fmt: skip
        row0 += layout.rows
    return grads[0], grads[1]


def element_scale(call: Call, layout: Layout) -> float:
    """What a row's divergence is multiplied by."""
    return 1.0 / layout.elements if call.elements else 1.0


def forward_numbers(call: Call, layout: Layout) -> tuple[float, ...]:
    """scale, beta, eps, variance_of, element_scale."""
    degrees = max(layout.elements - 1, 1) if call.unbiased else layout.elements
    scale = 1 / (call.temperature * LN2)
    return scale, call.beta, call.eps, 1.0 / degrees, element_scale(call, layout)


def backward_numbers(call: Call, layout: Layout) -> tuple[float, ...]:
    """scale, beta, gradient_scale, element_scale."""
    scale = 1 / (call.temperature * LN2)
    return scale, call.beta, call.gradient_scale, element_scale(call, layout)


def forward_constants(call: Call, layout: Layout, weighted: bool) -> dict[str, Any]:
    """What a forward kernel is compiled for, but for its block."""
    normalize = {NONE: 0, SOFTMAX: 0, STANDARDIZE: 2 if call.unbiased else 1, L2: 3}[call.normalize]
    return {
        "MEMBER": call.member,
        "NORMALIZE": normalize,
        "COSINE": call.divergence == COSINE,
        "ROOT": call.root,
        "HAS_WEIGHTS": weighted,
        "STRIDED": layout.inner > 1,
        "SEGMENTED": layout.segments > 1,
    }


def backward_constants(call: Call, layout: Layout, weighted: bool) -> dict[str, Any]:
    """What a backward kernel is compiled for, but for its block and the gradients it writes."""
    return {
        "MEMBER": call.member,
        "NORMALIZED": call.planes == 7,
        "ROOT": call.root,
        "HAS_WEIGHTS": weighted,
        "STRIDED": layout.inner > 1,
        "SEGMENTED": layout.segments > 1,
    }
