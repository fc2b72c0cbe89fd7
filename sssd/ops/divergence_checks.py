"""What `feature_divergence` refuses, with the way out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_ALLOWED: dict[str, tuple[Any, ...]] = {
    "over": ("channels", "cells", "image", "channel"),
    "normalize": ("softmax", "standardize", "l2", "none"),
    "divergence": ("js", "kl", "reverse_kl", "mse", "cosine"),
    "root": (None, "level", "row"),
    "elements": ("sum", "mean"),
    "rows": ("mean", "sum"),
    "reduction": ("mean", "sum", "none"),
}


def check_settings(
    given: dict[str, Any], temperature: float, beta: float, eps: float | None
) -> None:
    for name, value in given.items():
        if value not in _ALLOWED[name]:
            allowed = ", ".join(repr(v) for v in _ALLOWED[name])
            raise ValueError(f"{name} is {value!r}: expected one of {allowed}")
    softmax = given["normalize"] == "softmax"
    if given["divergence"] in ("js", "kl", "reverse_kl") and not softmax:
        raise ValueError(
            f"divergence {given['divergence']!r} compares distributions, but normalize is "
            f"{given['normalize']!r}: pass normalize='softmax', or divergence 'mse' or 'cosine'"
        )
    if given["divergence"] == "cosine" and softmax:
        raise ValueError(
            "divergence 'cosine' compares directions, but normalize is 'softmax': pass "
            "normalize='l2', 'standardize' or 'none'"
        )
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}: expected a positive number")
    if not 0 < beta < 1:
        raise ValueError(f"beta is {beta}: expected a number between 0 and 1, 0.5 is symmetric")
    if eps is not None and not 0 < eps < float("inf"):
        raise ValueError(f"eps is {eps}: expected a positive number")


_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_maps(
    student: Sequence[Tensor], teacher: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Both lists, each map dense in one of the two memory formats."""
    for name, maps in (("student", student), ("teacher", teacher)):
        if isinstance(maps, Tensor):
            raise TypeError(f"{name} is a tensor: pass a list of maps, one a level: [{name}]")
        if len(maps) == 0:
            raise ValueError(f"{name} is empty: pass at least one level")
        for level, x in enumerate(maps):
            if x.dim() != 4:
                raise ValueError(
                    f"{name}[{level}] has shape {tuple(x.shape)}: expected (B, C, H, W)"
                )
            if x.dtype not in _DTYPES:
                raise TypeError(f"{name}[{level}] is {x.dtype}: expected one of {_DTYPES}")
            if x.dtype != maps[0].dtype:
                raise TypeError(
                    f"{name}[{level}] is {x.dtype} but {name}[0] is {maps[0].dtype}: "
                    "pass one dtype for all levels of a side"
                )
            if x.device != student[0].device:
                raise ValueError(
                    f"{name}[{level}] is on {x.device} but student[0] is on {student[0].device}"
                )
    if len(student) != len(teacher):
        raise ValueError(f"student has {len(student)} levels but teacher has {len(teacher)}")
    for level, (a, b) in enumerate(zip(student, teacher, strict=True)):
        if a.shape != b.shape:
            raise ValueError(
                f"level {level}: student has shape {tuple(a.shape)} but teacher {tuple(b.shape)}"
            )
    return [_dense(x) for x in student], [_dense(x) for x in teacher]


def check_weights(row_weights: Sequence[Tensor], maps: Sequence[Tensor], over: str) -> list[Tensor]:
    if isinstance(row_weights, Tensor) or len(row_weights) != len(maps):
        raise ValueError(f"row_weights must be a list of {len(maps)} tensors, one a level")
    kept = {"channels": (0, 2, 3), "cells": (0, 1), "image": (0,), "channel": (1,)}[over]
    for level, (weights, x) in enumerate(zip(row_weights, maps, strict=True)):
        expected = tuple(x.shape[d] for d in kept)
        if tuple(weights.shape) != expected:
            raise ValueError(
                f"row_weights[{level}] has shape {tuple(weights.shape)}: expected {expected}, one "
                f"weight a row over {over!r}"
            )
        if weights.device != x.device:
            raise ValueError(
                f"row_weights[{level}] is on {weights.device} but the maps are on {x.device}"
            )
        if weights.requires_grad:
            raise ValueError(
                f"row_weights[{level}] requires a gradient: weights are constants, pass "
                "weights.detach()"
            )
    return [w.float() for w in row_weights]


def _dense(x: Tensor) -> Tensor:
    if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last):
        return x
    return x.contiguous()


class _InFormat(torch.autograd.Function):
    """A copy in another memory format, whose gradient comes back in the input's own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, memory_format: torch.memory_format) -> Tensor:
        last = x.is_contiguous(memory_format=torch.channels_last)
        ctx.memory_format = torch.channels_last if last else torch.contiguous_format
        return x.contiguous(memory_format=memory_format)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.contiguous(memory_format=ctx.memory_format), None


def in_format_of(a: Tensor, b: Tensor) -> Tensor:
    """Tensor b in the memory format of a, copied if it has another."""
    wanted = torch.contiguous_format if a.is_contiguous() else torch.channels_last
    return b if b.is_contiguous(memory_format=wanted) else _InFormat.apply(b, wanted)
