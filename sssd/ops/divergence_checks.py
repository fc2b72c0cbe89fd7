"""What `feature_divergence` refuses, with the way out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sssd.ops.inputs import Maps, as_number, as_pair
from sssd.ops.reference.divergence import REDUCED

_ALLOWED: dict[str, tuple[Any, ...]] = {
    "over": ("channels", "cells", "image", "images_and_cells"),
    "normalize": ("softmax", "standardize", "l2", "none"),
    "divergence": ("js", "kl", "reverse_kl", "mse", "cosine"),
    "root": (None, "level", "row"),
    "elements": ("sum", "mean"),
    "rows": ("mean", "sum"),
    "reduction": ("mean", "sum", "none"),
}


def check_settings(
    given: dict[str, Any], temperature: float, eps: float | None
) -> tuple[float, float | None]:
    """Temperature and eps, after all settings are found to have a meaning together."""
    if given["over"] == "channel":
        raise ValueError(
            "over is 'channel': pass 'images_and_cells', its new name (one row a channel, over "
            "images and cells), or 'channels' (one row a cell, over its channels)"
        )
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
    temperature = as_number("temperature", temperature)
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}: expected a positive number")
    eps = None if eps is None else as_number("eps", eps)
    if eps is not None and not 0 < eps < float("inf"):
        raise ValueError(f"eps is {eps}: expected a positive number")
    return temperature, eps


_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_maps(given_student: Maps, given_teacher: Maps) -> tuple[list[Tensor], list[Tensor]]:
    """Both lists, each map dense in one of the two memory formats."""
    student, teacher = as_pair(given_student, given_teacher)
    for name, maps in (("student", student), ("teacher", teacher)):
        if len(maps) == 0:
            raise ValueError(f"{name} is empty: pass at least one level")
        for level, x in enumerate(maps):
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
    for level, (a, b) in enumerate(zip(student, teacher, strict=True)):
        if a.shape != b.shape:
            raise ValueError(
                f"level {level}: student has shape {tuple(a.shape)} but teacher {tuple(b.shape)}"
            )
    return [_dense(x) for x in student], [_dense(x) for x in teacher]


def check_weights(
    student: Maps, row_weights: Maps, maps: Sequence[Tensor], over: str
) -> list[Tensor]:
    """One tensor a level; a dict is matched with the student's, if that is one."""
    named = student if isinstance(student, Mapping) else maps
    _, levels = as_pair(named, row_weights, ("student", "row_weights"), None)
    kept = [d for d in range(4) if d not in REDUCED[over]]
    for level, (weights, x) in enumerate(zip(levels, maps, strict=True)):
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
    # Autograd saves no tensor of torch.inference_mode; these are small enough to copy.
    return [(w.clone() if w.is_inference() else w).float() for w in levels]


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
