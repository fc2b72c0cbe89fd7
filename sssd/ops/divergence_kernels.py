"""The divergence operator as the dispatcher knows it: schema, fake, gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from sssd.ops import dispatch
from sssd.ops.reference.divergence import REDUCED

# The settings, here alone: an enumeration crosses the boundary as its place in the list, which is
# the order of kernels/divergence/divergence.h; the schema and the checks are made of these.
Over = Literal["channels", "cells", "image", "images_and_cells"]
Normalize = Literal["none", "softmax", "standardize", "l2"]
Measure = Literal["js", "kl", "mse", "cosine", "reverse_kl"]  # the last is kl, the lists swapped
Root = Literal[None, "level", "row"]
Rows = Literal["mean", "sum"]
Elements = Literal["sum", "mean"]
CHOICES: dict[str, tuple[Any, ...]] = {
    "over": get_args(Over),
    "normalize": get_args(Normalize),
    "divergence": get_args(Measure),
    "root": get_args(Root),
    "rows": get_args(Rows),
    "elements": get_args(Elements),
}
_OTHERS = {"unbiased": "bool", "temperature": "float", "eps": "float"}
_SETTINGS = ", ".join(
    f"{kind} {name}" for name, kind in (dict.fromkeys(CHOICES, "int") | _OTHERS).items()
)
_TRITON = "sssd.ops.triton.divergence"

OPERATOR = "divergence_forward"


def number(setting: str, value: str | None) -> int:
    """An enumeration's value as the schema takes it."""
    return CHOICES[setting].index(value)


def numbers(settings: dict[str, Any]) -> list[Any]:
    """All settings by name as the schema takes them."""
    return [number(name, settings[name]) for name in CHOICES] + [settings[n] for n in _OTHERS]


def saved_planes(normalize: int, divergence: int) -> int:
    """Numbers saved a row, as `saved_planes` in kernels/divergence/divergence.h counts them."""
    name = CHOICES["divergence"][divergence]
    if CHOICES["normalize"][normalize] == "softmax":
        return {"js": 4, "kl": 3, "mse": 5}[name]
    return 1 if CHOICES["normalize"][normalize] == "none" and name == "mse" else 7


def _value_dtype(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> torch.dtype:
    dtypes = (student[0].dtype, teacher[0].dtype)
    return torch.float64 if torch.float64 in dtypes else torch.float32


def _forward_fake(
    student: list[Tensor], teacher: list[Tensor], row_weights: list[Tensor], *settings: Any
) -> tuple[Tensor, Tensor, Tensor]:
    over, normalize, divergence = settings[:3]
    dims = REDUCED[CHOICES["over"][over]]
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
    dispatch.save(ctx, *student, *teacher, *row_weights, factors, saved)


def _backward_with(backend: str) -> Any:
    def backward(ctx: Any, grad_values: Tensor | None, *_: Any) -> tuple[Any, ...]:
        *maps, factors, saved = dispatch.saved(ctx)
        levels = ctx.levels
        nothing = [None] * (len(maps) - 2 * levels), *[None] * len(ctx.settings)
        if grad_values is None:
            return ([None] * levels, [None] * levels, *nothing)
        student, teacher, weights = maps[:levels], maps[levels : 2 * levels], maps[2 * levels :]
        needs = [any(side) for side in ctx.needs_input_grad[:2]]
        grads = dispatch.call(
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


dispatch.define(
    "divergence_forward(Tensor[] student, Tensor[] teacher, Tensor[] row_weights, "
    f"{_SETTINGS}) -> (Tensor values, Tensor factors, Tensor saved)",
    fake=_forward_fake,
    backward=_backward_with,
    setup_context=_setup_context,
    triton_module=_TRITON,
)
dispatch.define(
    "divergence_backward(Tensor grad_values, Tensor[] student, Tensor[] teacher, "
    f"Tensor[] row_weights, Tensor factors, Tensor saved, {_SETTINGS}, "
    "bool need_student, bool need_teacher) -> (Tensor[] student, Tensor[] teacher)",
    fake=_backward_fake,
    **dispatch.no_double_backward("sssd.ops.feature_divergence"),
    triton_module=_TRITON,
)
