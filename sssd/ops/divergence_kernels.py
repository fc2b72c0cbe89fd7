"""The divergence operator as the dispatcher knows it: schema, fake, gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sssd.ops import registration
from sssd.ops.backends import Operator
from sssd.ops.reference.divergence import REDUCED

# Enumerations cross the boundary as numbers, in the order of kernels/divergence/divergence.h.
_NUMBERED: dict[str, tuple[Any, ...]] = {
    "over": ("channels", "cells", "image", "images_and_cells"),
    "normalize": ("none", "softmax", "standardize", "l2"),
    "divergence": ("js", "kl", "mse", "cosine"),
    "root": (None, "level", "row"),
    "rows": ("mean", "sum"),
    "elements": ("sum", "mean"),
}
_SETTINGS = (
    "int over, int normalize, int divergence, int root, int rows, int elements, bool unbiased, "
    "float temperature, float eps"
)
SETTINGS_COUNT = 9
_TRITON = "sssd.ops.triton.divergence"

OPERATOR = Operator("divergence_forward", triton=True)


def run(
    backend: str,
    student: list[Tensor],
    teacher: list[Tensor],
    row_weights: list[Tensor] | None,
    settings: dict[str, Any],
) -> Tensor:
    """The P values, (P,), by a fused backend; the maps of a level share one memory format."""
    weights = [w.contiguous() for w in row_weights or []]
    numbers = [
        _NUMBERED[name].index(value) if name in _NUMBERED else value
        for name, value in settings.items()
    ]
    return registration.call("divergence_forward", backend, student, teacher, weights, *numbers)[0]


def saved_planes(normalize: int, divergence: int) -> int:
    """Numbers saved a row, as `saved_planes` in kernels/divergence/divergence.h counts them."""
    name = _NUMBERED["divergence"][divergence]
    if _NUMBERED["normalize"][normalize] == "softmax":
        return {"js": 4, "kl": 3, "mse": 5}[name]
    return 1 if _NUMBERED["normalize"][normalize] == "none" and name == "mse" else 7


def _value_dtype(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> torch.dtype:
    dtypes = (student[0].dtype, teacher[0].dtype)
    return torch.float64 if torch.float64 in dtypes else torch.float32


def _forward_fake(
    student: list[Tensor], teacher: list[Tensor], row_weights: list[Tensor], *settings: Any
) -> tuple[Tensor, Tensor, Tensor]:
    over, normalize, divergence = settings[:3]
    dims = REDUCED[_NUMBERED["over"][over]]
    rows = 0
    for x in student:
        count = 1
        for d in range(4):
            count *= 1 if d in dims else x.shape[d]
        rows += count
    new = student[0].new_empty
    dtype = _value_dtype(student, teacher)
    planes = saved_planes(normalize, divergence)
    levels = len(student)
    return new(levels, dtype=dtype), new(levels, dtype=dtype), new(planes, rows, dtype=dtype)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    student, teacher, row_weights = inputs[:3]
    _, factors, saved = output
    ctx.mark_non_differentiable(factors, saved)
    ctx.set_materialize_grads(False)  # else backward would be handed zeros as large as `saved`
    ctx.levels = len(student)
    ctx.settings = inputs[3:]
    registration.save(ctx, *student, *teacher, *row_weights, factors, saved)


def _backward_with(backend: str) -> Any:
    def backward(ctx: Any, grad_values: Tensor | None, *_: Any) -> tuple[Any, ...]:
        *maps, factors, saved = registration.saved(ctx)
        levels = ctx.levels
        nothing = [None] * (len(maps) - 2 * levels), *[None] * SETTINGS_COUNT
        if grad_values is None:
            return ([None] * levels, [None] * levels, *nothing)
        student, teacher, weights = maps[:levels], maps[levels : 2 * levels], maps[2 * levels :]
        needs = [any(side) for side in ctx.needs_input_grad[:2]]
        grads = registration.call(
            "divergence_backward", backend,
            grad_values, student, teacher, weights, factors, saved, *ctx.settings, *needs,
        )  # fmt: skip
        wanted = [
            [g if n else None for g, n in zip(side, need, strict=True)] if side else [None] * levels
            for side, need in zip(grads, ctx.needs_input_grad[:2], strict=True)
        ]
        return (*wanted, *nothing)

    return backward


def _backward_fake(
    grad_values: Tensor,
    student: list[Tensor],
    teacher: list[Tensor],
    row_weights: list[Tensor],
    factors: Tensor,
    saved: Tensor,
    *rest: Any,
) -> tuple[list[Tensor], list[Tensor]]:
    need_student, need_teacher = rest[-2:]
    return (
        [torch.empty_like(x) for x in student] if need_student else [],
        [torch.empty_like(x) for x in teacher] if need_teacher else [],
    )


registration.define(
    "divergence_forward(Tensor[] student, Tensor[] teacher, Tensor[] row_weights, "
    f"{_SETTINGS}) -> (Tensor values, Tensor factors, Tensor saved)",
    fake=_forward_fake,
    backward=_backward_with,
    setup_context=_setup_context,
    triton_module=_TRITON,
)
registration.define(
    "divergence_backward(Tensor grad_values, Tensor[] student, Tensor[] teacher, "
    f"Tensor[] row_weights, Tensor factors, Tensor saved, {_SETTINGS}, "
    "bool need_student, bool need_teacher) -> (Tensor[] student, Tensor[] teacher)",
    fake=_backward_fake,
    **registration.no_double_backward("sssd.ops.feature_divergence"),
    triton_module=_TRITON,
)
