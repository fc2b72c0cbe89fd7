"""Divergence of two lists of feature maps: one fused call for all levels, forward and backward."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from sssd.ops import dispatch
from sssd.ops.divergence_kernels import (
    CHOICES,
    OPERATOR,
    Elements,
    Measure,
    Normalize,
    Over,
    Root,
    Rows,
    every_row,
    is_defined,
    numbers,
)
from sssd.ops.inputs import Maps, as_number, check_maps, check_weights, in_format_of
from sssd.ops.reference import divergence as reference

Reduction = Literal["none", "mean", "sum"]


def feature_divergence(
    student: Maps,
    teacher: Maps,
    *,
    over: Over = "channels",
    normalize: Normalize = "softmax",
    divergence: Measure = "js",
    temperature: float = 1.0,
    eps: float | None = None,
    unbiased: bool = False,
    root: Root = None,
    elements: Elements = "sum",
    rows: Rows = "mean",
    row_weights: Maps | None = None,
    reduction: Reduction = "mean",
    backend: str | None = None,
) -> Tensor:
    r"""Divergence of two lists of feature maps, level by level.

    Each map is split into rows; both sides of a row are normalized, to y and z, and compared:

        D_row   = sum over elements of d(y_j, z_j)                  (mean: divided by their number)
        value_l = sum_r w_r D_r / sum_r w_r                         (rows="sum": sum_r w_r D_r)
        result  = mean over the levels of value_l

    with a square root over D_row (root="row") or over value_l (root="level").

    Args:
        student: P maps (B, C, H_l, W_l), contiguous or channels_last, all float32, bfloat16,
            float16 or float64. Other strides are copied. A list, a tuple, an iterator, a dict such
            as torchvision's backbones return, or one map.
        teacher: P maps of the same shapes; its dtype may differ from the student's. Two dicts are
            matched by their keys. Maps made in torch.inference_mode are constants.
        over: what a row runs over: "channels" (one row per cell), "cells" (one per image and
            channel), "image" (one per image, over channels and cells), "images_and_cells" (one per
            channel, as in batch norm).
        normalize: "softmax" of x / temperature; "standardize" to mean 0 and variance 1; "l2" to
            unit length; "none".
        divergence: "js" (Jensen-Shannon), "kl" (teacher || student), "reverse_kl" (student ||
            teacher), "mse" (squared difference), "cosine" (1 - cosine). The first three need
            softmax rows; cosine needs any other.
        temperature: of the softmax. torch.compile compiles anew for each value; for one that
            changes all the time, divide the maps by it.
        eps: standardize: added to the variance, or (unbiased) to the deviation; l2, cosine: the
            shortest length. Default 1e-5, 1e-6 if unbiased, 1e-12 for lengths.
        unbiased: standardize by the variance over n - 1.
        root: "level", "row" or None. Slope 0 where the divergence is below 1e-12.
        elements: how the elements of a row are reduced.
        rows: how the rows of a level are reduced; "none" returns the value of every row of every
            level, in the order of the weights below (`.split` by their numbers, then `.view`). Then
            a root is taken of each row, and nothing is weighted or reduced; the gradients of the
            fused backends have float32 precision.
        row_weights: P tensors, one weight per row: (B, H_l, W_l) over channels, (B, C) over cells,
            (B,) over the image, (C,) over images and cells. Constants. Weights that add up to 0
            give value 0.
        reduction: how the P values are reduced; "none" returns them, (P,).
        backend: "auto", "cuda", "triton", "cpu" or "reference"; None takes the current default.

    Returns:
        float32 scalar, (P,) for reduction="none", or all rows, (R,), for rows="none"; float64 if an
        input is. Differentiable in student and teacher; no gradient is computed for a side that
        needs none.

    Raises:
        TypeError: for an unsupported dtype, dtypes that differ within a list, something that is not
            a list of maps, lists that do not match, or a setting that requires a gradient.
        ValueError: for shapes, devices or settings that do not fit, naming argument and level.
        RuntimeError: on a fused backend, when differentiated twice or in forward mode, or inside a
            transform of torch.func.

    Example:
        >>> student = [torch.randn(2, 8, 4, 4), torch.randn(2, 8, 2, 2)]
        >>> teacher = [torch.randn_like(x) for x in student]
        >>> feature_divergence(student, teacher, divergence="kl", temperature=4.0).shape
        torch.Size([])

    Source: kernels/divergence/README.md derives the formulas.
    """
    given = {
        "over": over, "normalize": normalize, "divergence": divergence, "root": root,
        "elements": elements, "rows": rows, "reduction": reduction,
    }  # fmt: skip
    temperature, eps = _check_settings(given, temperature, eps)
    if rows == "none" and row_weights is not None:
        raise ValueError(
            "row_weights are given, but rows='none' does not use them: multiply its result"
        )
    students, teachers = check_maps(student, teacher)
    weights = None if row_weights is None else check_weights(student, row_weights, students, over)
    if divergence == "reverse_kl":
        students, teachers, divergence = teachers, students, "kl"
    if eps is None:
        eps = 1e-12 if "l2" in normalize or divergence == "cosine" else 1e-6 if unbiased else 1e-5
    settings: dict[str, Any] = {
        "over": over, "normalize": normalize, "divergence": divergence,
        "root": "row" if root and rows == "none" else root,
        "rows": rows, "elements": elements, "unbiased": unbiased, "temperature": temperature,
        "eps": eps,
    }  # fmt: skip
    wide = students[0] if students[0].dtype == torch.float64 else teachers[0]
    choice = dispatch.choose(OPERATOR, wide, backend)
    if choice.backend == "reference":
        values = reference.feature_divergence(students, teachers, weights, **settings)
    else:
        # Here, before a copy meets them.
        dispatch.refuse_transforms(OPERATOR, students, teachers, weights or [])
        teachers = [in_format_of(a, b) for a, b in zip(students, teachers, strict=True)]
        if rows == "none":
            return every_row(choice.backend, students, teachers, settings)
        dense = [w.contiguous() for w in weights or []]
        forward = dispatch.kernel(OPERATOR, choice.backend)
        values, _, _ = forward(students, teachers, dense, *numbers(settings))
    if reduction == "none" or rows == "none":
        return values
    return values.mean() if reduction == "mean" else values.sum()


def _check_settings(
    given: dict[str, Any], temperature: float, eps: float | None
) -> tuple[float, float | None]:
    """Temperature and eps, after all settings are found to have a meaning together."""
    for name, value in given.items():
        choices = CHOICES.get(name, get_args(Reduction))
        if value not in choices:
            allowed = ", ".join(repr(v) for v in choices)
            raise ValueError(f"{name} is {value!r}: expected one of {allowed}")
    if given["rows"] == "none" and given["reduction"] == "sum":
        raise ValueError(
            "reduction is 'sum', but rows='none' does not reduce: sum its result, or pass "
            "rows='sum'"
        )
    defined = is_defined(given["normalize"], given["divergence"])
    if not defined and given["normalize"] != "softmax":
        raise ValueError(
            f"divergence {given['divergence']!r} compares distributions, but normalize is "
            f"{given['normalize']!r}: pass normalize='softmax', or divergence 'mse' or 'cosine'"
        )
    if not defined:
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


def js_distance(
    student: Maps,
    teacher: Maps,
    *,
    over: Over = "channels",
    temperature: float = 1.0,
    root: Root = "level",
    elements: Elements = "sum",
    rows: Rows = "mean",
    row_weights: Maps | None = None,
    reduction: Reduction = "mean",
    backend: str | None = None,
) -> Tensor:
    r"""Jensen-Shannon distance of softmax rows, the mean over the levels.

        D_JS = KL(p || m) / 2 + KL(q || m) / 2,  m = (p + q) / 2,  0 <= D_JS <= ln 2
        result = mean over levels of sqrt(mean over rows of D_JS)

    Args:
        student: P maps (B, C, H_l, W_l); see `feature_divergence`.
        teacher: P maps of the same shapes.
        over: "channels", "cells", "image" or "images_and_cells": what a row runs over.
        temperature: of both softmaxes.
        root: "level", "row" (mean of the rows' distances) or None (the divergence).
        elements: "mean" divides each row by its length, as `kl_div(reduction="mean")` does.
        rows: "mean", "sum" or "none", the distance of every row: see `feature_divergence`.
        row_weights: P tensors, one weight per row, such as foreground masks.
        reduction: "mean", "sum" or "none" over the levels.
        backend: "auto", "cuda", "triton", "cpu" or "reference".

    Returns:
        float32 scalar, (P,) for reduction="none", or all rows, (R,), for rows="none".

    Raises:
        TypeError, ValueError: as `feature_divergence`.

    Example:
        >>> maps = [torch.randn(1, 8, 4, 4)]
        >>> float(js_distance(maps, maps))
        0.0
        >>> js_distance(maps, maps, rows="none").view(1, 4, 4).shape  # a picture
        torch.Size([1, 4, 4])

    Source: Deng et al., "SSSD", ICIP 2023, arXiv 2303.05015.
    """
    return feature_divergence(
        student, teacher, over=over, temperature=temperature, root=root, elements=elements,
        rows=rows, row_weights=row_weights, reduction=reduction, backend=backend,
    )  # fmt: skip


def js_divergence(student: Maps, teacher: Maps, **options: Any) -> Tensor:
    """Jensen-Shannon divergence: `js_distance` without the root; same options.

    Example:
        >>> float(js_divergence([torch.zeros(1, 2, 1, 1)], [torch.zeros(1, 2, 1, 1)]))
        0.0
    """
    return js_distance(student, teacher, root=None, **options)
