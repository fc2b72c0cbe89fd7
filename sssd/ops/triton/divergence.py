"""The divergence operator in Triton: the contract of csrc/divergence.cpp.

A pass is one launch for all levels of one kind (divergence_plan.Kind), forward one more for the
ordered sums; where rows are cut into pieces, their statistics and what they come to take two more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sssd.ops.triton import divergence_kernels as kernels
from sssd.ops.triton import divergence_plan as plans

# Numbers of the schema, in the order of kernels/divergence/divergence.h.
NONE, SOFTMAX, STANDARDIZE, L2 = range(4)
JS, KL, MSE, COSINE = range(4)
LN2 = 0.6931471805599453


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

    @property
    def scale(self) -> float:
        """From logits to base 2."""
        return 1 / (self.temperature * LN2)

    @property
    def normalizer(self) -> int:
        """As the kernels number it: unbiased deviations are one of their own."""
        return {NONE: 0, SOFTMAX: 0, STANDARDIZE: 2 if self.unbiased else 1, L2: 3}[self.normalize]

    def forward_constants(self, weighted: bool) -> dict[str, Any]:
        """What the forward kernels are compiled for, but for the kind of levels."""
        return {
            "MEMBER": self.member,
            "NORMALIZE": self.normalizer,
            "COSINE": self.divergence == COSINE,
            "ROOT": self.root,
            "MEAN_ELEMENTS": self.elements == 1,
            "HAS_WEIGHTS": weighted,
        }

    def backward_constants(self, weighted: bool) -> dict[str, Any]:
        """The same for backward, but for the gradients it writes."""
        return {
            "MEMBER": self.member,
            "NORMALIZED": self.planes == 7,
            "ROOT": self.root,
            "MEAN_ELEMENTS": self.elements == 1,
            "HAS_WEIGHTS": weighted,
        }


def why_not(**settings: Any) -> str:
    """What keeps Triton from a call: nothing, it serves the whole family."""
    return ""


def divergence_forward(
    student: Sequence[Tensor], teacher: Sequence[Tensor], row_weights: Sequence[Tensor], *given: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Values and factors, (P,), and the saved planes, (planes, rows)."""
    call = Call(*given)
    how = plans.plan([student, teacher], call.over, backward=False)
    new = student[0].new_empty
    saved = new(call.planes, how.rows, dtype=torch.float32)
    values, factors = new(2, len(student), dtype=torch.float32).unbind()
    partials = new(max(1, sum(count for _, count in how.partials)), 2, dtype=torch.float32)
    numbers = call.scale, call.beta, call.eps
    with torch.cuda.device_of(student[0]):
        for group in how.groups:
            constants = call.forward_constants(bool(row_weights))
            maps = group.maps(student), group.maps(teacher)
            weights = group.maps(row_weights) if row_weights else (saved,)
            stats = sums = partials
            if group.kind.SPLIT:
                stats, sums = new(2, 4, group.slots, dtype=torch.float32).unbind()
                kernels.statistics_kernel[(group.programs,)](
                    *maps, stats, group.geometry, group.slots, call.scale,
                    MEMBER=call.member, NORMALIZE=call.normalizer, **group.constants(),
                )  # fmt: skip
            written = weights, saved, partials, stats, sums
            kernels.forward_kernel[(group.programs,)](
                *maps, *written, group.geometry, how.rows, group.slots, *numbers,
                **constants, **group.constants(),
            )  # fmt: skip
            if group.kind.SPLIT:
                geometry, programs = group.finish()
                kernels.rows_kernel[(programs,)](
                    *written, geometry, how.rows, group.slots, *numbers,
                    **constants, ROWS=plans.ROWS_TO_FINISH,
                )  # fmt: skip
        for first in range(0, len(student), plans.MOST_LEVELS):
            spans = tuple(how.partials[first : first + plans.MOST_LEVELS])
            kernels.finish_kernel[(len(spans),)](
                partials, values[first:], factors[first:], spans,
                ROOT=call.root, MEAN=call.rows == 0, BLOCK=1024,
            )  # fmt: skip
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
    if not need_student and not need_teacher:
        return grads[0], grads[1]
    maps = [student, teacher, grads[0] or student, grads[1] or teacher]
    how = plans.plan(maps, call.over, backward=True)
    with torch.cuda.device_of(student[0]):
        for group in how.groups:
            kernels.backward_kernel[(group.programs,)](
                *(group.maps(side) for side in maps),
                group.maps(row_weights) if row_weights else (saved,), saved, factors,
                grad_values.contiguous(), group.geometry, tuple(group.levels), how.rows,
                call.scale, call.beta, call.gradient_scale,
                **call.backward_constants(bool(row_weights)), **group.constants(),
                NEED_STUDENT=need_student, NEED_TEACHER=need_teacher,
            )  # fmt: skip
    return grads[0], grads[1]
