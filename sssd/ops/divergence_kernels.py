"""The divergence operator as the dispatcher knows it: schema, fake, gradient, every row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from sssd.ops import dispatch
from sssd.ops.reference.divergence import REDUCED, safe_root

# The settings, here alone: an enumeration crosses the boundary as its place in the list, which is
# the order of kernels/divergence/divergence.h; the schema and the checks are made of these.
Over = Literal["channels", "cells", "image", "images_and_cells"]
Normalize = Literal["none", "softmax", "standardize", "l2"]
Measure = Literal["js", "kl", "mse", "cosine", "reverse_kl"]  # the last is kl, the lists swapped
Root = Literal[None, "level", "row"]
Rows = Literal["mean", "sum", "none"]
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


def is_defined(normalize: str, divergence: str) -> bool:
    """Whether rows so normalised have the divergence: softmaxes all but cosine, others two."""
    return divergence == "mse" or (normalize == "softmax") == (divergence != "cosine")


# How many numbers forward saves of a row; the first is its divergence. The library says it of its
# own, by the numbers of `normalize` and `divergence`.
TRITON_PLANES = 9
_NATIVE_PLANES: dict[tuple[int, int], int] = {
    (n, d): torch.ops.sssd.divergence_planes(n, d)
    for n, normalize in enumerate(CHOICES["normalize"])
    for d, divergence in enumerate(CHOICES["divergence"][:-1])
    if not dispatch.MISSING and is_defined(normalize, divergence)
}


def saved_planes(backend: str, normalize: int, divergence: int) -> int:
    """How many numbers a backend's forward saves of a row."""
    return TRITON_PLANES if backend == "triton" else _NATIVE_PLANES[normalize, divergence]


def rows_and_elements(x: Tensor, over: int) -> tuple[int, int]:
    """Of a map (B, C, H, W): how many rows, and how many elements each has."""
    dims = REDUCED[CHOICES["over"][over]]
    elements = math.prod([n for d, n in enumerate(x.shape) if d in dims])
    return math.prod([n for d, n in enumerate(x.shape) if d not in dims]), elements


def _value_dtype(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> torch.dtype:
    dtypes = (student[0].dtype, teacher[0].dtype)
    return torch.float64 if torch.float64 in dtypes else torch.float32


def _forward_fake(backend: str) -> Any:
    def fake(
        student: list[Tensor], teacher: list[Tensor], row_weights: list[Tensor], *settings: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        over, normalize, divergence = settings[:3]
        rows = sum(rows_and_elements(x, over)[0] for x in student)
        new, dtype = student[0].new_empty, _value_dtype(student, teacher)
        planes, levels = saved_planes(backend, normalize, divergence), len(student)
        return new(levels, dtype=dtype), new(levels, dtype=dtype), new(planes, rows, dtype=dtype)

    return fake


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    student, teacher, row_weights = inputs[:3]
    _, factors, saved = output
    alone = inputs[3 + list(CHOICES).index("rows")] == number("rows", "none")  # see `every_row`
    ctx.mark_non_differentiable(*([factors] if alone else [factors, saved]))
    ctx.set_materialize_grads(False)  # else backward would be handed zeros as large as `saved`
    ctx.levels = len(student)
    ctx.settings = inputs[3:]
    dispatch.save(ctx, *student, *teacher, *row_weights, factors, saved)


def _backward_with(backend: str) -> Any:
    def backward(
        ctx: Any, grad_values: Tensor | None, _: Tensor | None, grad_saved: Tensor | None
    ) -> tuple[Any, ...]:
        *maps, factors, saved = dispatch.saved(ctx)
        levels = ctx.levels
        nothing = [None] * (len(maps) - 2 * levels), *[None] * len(ctx.settings)
        if grad_values is None and grad_saved is None:
            return ([None] * levels, [None] * levels, *nothing)
        student, teacher, weights = maps[:levels], maps[levels : 2 * levels], maps[2 * levels :]
        if grad_saved is not None:  # rows="none": of the rows' divergences, as weights of their sum
            each = grad_saved[0].float().contiguous()
            sizes = [rows_and_elements(x, ctx.settings[0])[0] for x in student]
            weights, grad_values = list(each.split(sizes)), torch.ones_like(factors)
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


def _no_second_derivative(ctx: Any, *grads: Any) -> Any:
    raise RuntimeError(
        "sssd.ops.feature_divergence was differentiated twice: its fused backward has no gradient "
        "of its own; call sssd.ops.feature_divergence(..., backend='reference'), which can be "
        "differentiated any number of times"
    )


def every_row(
    backend: str, student: list[Tensor], teacher: list[Tensor], settings: dict[str, Any]
) -> Tensor:
    """The values of all rows, (R,), from what forward saves of each for its gradient."""
    plain = numbers(settings | {"root": None, "elements": "sum"})
    _, _, saved = dispatch.kernel(OPERATOR, backend)(student, teacher, [], *plain)
    sizes = [rows_and_elements(x, plain[0]) for x in student]
    parts = zip(saved[0].split([rows for rows, _ in sizes]), sizes, strict=True)
    mean = settings["elements"] == "mean"
    # Of rows without elements nothing is saved: they count 0, with a gradient of 0.
    each = torch.cat([p / (n if mean else 1) if n else 0 * p.nan_to_num() for p, (_, n) in parts])
    return safe_root(each) if settings["root"] else each


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
    fake=lambda backend: _backward_fake,
    backward=lambda backend: _no_second_derivative,
    setup_context=lambda ctx, inputs, output: None,
    triton_module=_TRITON,
)
