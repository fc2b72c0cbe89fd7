"""Which backend would run an operator, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sssd.ops import box_kernels, dispatch, divergence_kernels
from sssd.ops.inputs import Maps, as_list

OPERATORS: dict[str, str] = {
    **dict.fromkeys(
        ("feature_divergence", "js_distance", "js_divergence"), divergence_kernels.OPERATOR
    ),
    "pool_boxes": box_kernels.POOL,
    "paint_boxes": box_kernels.PAINT,
    "label_heatmap": box_kernels.HEATMAP,
}


def explain(
    operator: Callable[..., Any] | str,
    tensors: Maps,
    *,
    backend: str | None = None,
) -> str:
    """Say which backend would run an operator on such tensors, and why.

    Args:
        operator: the function, or its name.
        tensors: its tensors, as it takes them; only device and dtype are looked at.
        backend: as the operator takes it.

    Returns:
        One sentence.

    Raises:
        ValueError: for an operator that has one backend only, or a backend that cannot run it.

    Example:
        >>> import torch
        >>> explain("js_distance", [torch.zeros(1, 2, 1, 1)], backend="reference")
        "js_distance of 1 float32 tensor on cpu runs on backend 'reference': asked for"
    """
    name = operator if isinstance(operator, str) else operator.__name__
    if name not in OPERATORS:
        raise ValueError(f"operator is {name!r}: expected one of {', '.join(OPERATORS)}")
    tensors = as_list("tensors", tensors, dims=None)
    choice = dispatch.choose(OPERATORS[name], tensors[0], backend)
    first = tensors[0]
    count = f"{len(tensors)} {str(first.dtype).removeprefix('torch.')} tensor" + "s" * (
        len(tensors) != 1
    )
    return (
        f"{name} of {count} on {first.device} runs on backend {choice.backend!r}: {choice.reason}"
    )
