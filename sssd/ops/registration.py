"""Schemas, fakes and gradients of the operators, registered once for every backend.

The library (csrc/) adds its kernels for CPU and CUDA to the schemas defined here. Triton runs on
CUDA tensors too, so what it serves stands as an operator of its own, `sssd::NAME_triton`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

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


def call(name: str, backend: str, *args: Any) -> Any:
    """Run `name` on a backend other than the reference.

    Raises:
        RuntimeError: for a derivative that no fused kernel has, which would be lost in silence.
    """
    tensors = [x for arg in args for x in (arg if isinstance(arg, list) else [arg])]
    if torch._C._are_functorch_transforms_active() or any(
        isinstance(x, Tensor) and _is_transformed(x) for x in tensors
    ):
        raise RuntimeError(
            f"sssd::{name} was called with dual numbers (forward-mode differentiation), batched "
            "gradients, or inside a transform of torch.func (grad, vmap, jvp, jacrev, ...): the "
            "fused kernels know none of these; pass backend='reference', or call inside "
            "sssd.ops.use_backend('reference'), which knows all"
        )
    return kernel(name, backend)(*args)


def _is_transformed(x: Tensor) -> bool:
    """Whether it is a dual number, or one of autograd's batched gradients."""
    if forward_ad.unpack_dual(x).tangent is not None:
        return True
    return not torch.compiler.is_compiling() and torch._C._functorch.is_legacy_batchedtensor(x)


def save(ctx: Any, *tensors: Tensor | None) -> None:
    """Keep tensors for the backward pass, also those of torch.inference_mode.

    Autograd refuses the latter since it cannot see whether they were changed; they are constants.
    """
    ctx.constants = [x if x is not None and x.is_inference() else None for x in tensors]
    pairs = zip(tensors, ctx.constants, strict=True)
    ctx.save_for_backward(*(x if constant is None else None for x, constant in pairs))


def saved(ctx: Any) -> list[Any]:
    """What `save` kept, in its order."""
    pairs = zip(ctx.saved_tensors, ctx.constants, strict=True)
    return [x if constant is None else constant for x, constant in pairs]


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
