"""Schemas, fakes and gradients of the operators, registered once for every backend.

The library (csrc/) adds its kernels for CPU and CUDA to the schemas defined here. Triton runs on
CUDA tensors too, so what it serves stands as an operator of its own, `sssd::NAME_triton`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch

_LIBRARY = torch.library.Library("sssd", "FRAGMENT")


def define(
    schema: str,
    *,
    fake: Callable[..., Any],
    backward: Callable[[str], Callable[..., Any]],
    setup_context: Callable[..., None],
    triton_module: str | None = None,
) -> None:
    """Register an operator: schema, shapes, gradient, and Triton's form of it.

    Args:
        schema: `name(arguments) -> results`.
        fake: the results' shapes, dtypes and memory formats, without data.
        backward: from a backend's name to the gradient formula on it, as
            `torch.library.register_autograd` takes it.
        setup_context: what it saves.
        triton_module: module with a function `name` of the same signature; imported when called.
    """
    name = schema.split("(")[0]
    names = {"native": name}
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    if triton_module is not None:
        names["triton"] = f"{name}_triton"
        _LIBRARY.define(
            schema.replace(name, f"{name}_triton", 1), tags=(torch.Tag.pt2_compliant_tag,)
        )

        def run_triton(*args: Any) -> Any:
            first = args[0] if isinstance(args[0], torch.Tensor) else args[0][0]
            with torch.cuda.device_of(first):  # Triton launches on the current device
                return getattr(importlib.import_module(triton_module), name)(*args)

        _LIBRARY.impl(f"{name}_triton", run_triton, "CUDA")
    for backend, each in names.items():
        torch.library.register_fake(f"sssd::{each}", fake, lib=_LIBRARY)
        torch.library.register_autograd(
            f"sssd::{each}", backward(backend), setup_context=setup_context, lib=_LIBRARY
        )


def kernel(name: str, backend: str) -> Callable[..., Any]:
    """The registered operator that runs `name` on a backend other than the reference."""
    return getattr(torch.ops.sssd, f"{name}_triton" if backend == "triton" else name).default


def no_double_backward(reference: str) -> dict[str, Callable[..., Any]]:
    """Backward of a backward operator: an error that names the way out."""

    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(
            f"{reference} was differentiated twice: its fused backward has no gradient of its own; "
            f"call {reference}(..., backend='reference'), which is differentiable any number of "
            "times"
        )

    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    return {"backward": lambda backend: backward, "setup_context": setup_context}
