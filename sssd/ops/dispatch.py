"""Chooses the backend of an operator, and calls it: one rule and one registration for all.

Schemas, fakes and gradients are registered here once for every backend. Two libraries (csrc/) add
their kernels to them: `_C.so` for the CPU and, loaded where torch has CUDA, `_C_cuda.so`. Triton
runs on CUDA tensors too, so what it serves stands as an operator of its own, `sssd::NAME_triton`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

BACKENDS = ("auto", "cuda", "triton", "cpu", "reference")
LIBRARY_PATH = Path(__file__).parent.parent / "_C.so"
CUDA_LIBRARY_PATH = LIBRARY_PATH.with_name("_C_cuda.so")
BUILD_COMMAND = "python setup.py build_ext"

R = TypeVar("R")


class Choice(NamedTuple):
    """The backend that runs, and why."""

    backend: str
    reason: str


def _load(library: Path, absent: str) -> str:
    """Load a library of operators; return why they are missing, or nothing."""
    if not library.exists():
        return absent
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        return f"{library.name} does not load ({error}); rebuild it with `{BUILD_COMMAND}`"
    return ""


def _load_for_cuda() -> str:
    """Load the CUDA kernels where they can run; return why they are missing, or nothing."""
    if MISSING:
        return MISSING
    if torch.version.cuda is None:
        return "this torch was built without CUDA"
    absent = f"sssd was built without CUDA (`{BUILD_COMMAND}` with nvcc)"
    return _load(CUDA_LIBRARY_PATH, absent)


MISSING = _load(
    LIBRARY_PATH,
    f"the native operators are not built (run `{BUILD_COMMAND}` in the checkout, or reinstall with "
    "SSSD_NATIVE=1, which reports what is missing)",
)
CUDA_MISSING = _load_for_cuda()
if MISSING:
    warnings.warn(
        f"sssd: {MISSING}; falling back to the plain PyTorch reference: same results, slower",
        stacklevel=2,
    )
elif "does not load" in CUDA_MISSING:
    warnings.warn(
        f"sssd: {CUDA_MISSING}; on a GPU, Triton is used instead if it is installed", stacklevel=2
    )


def check_backend(backend: str, place: str = "backend") -> str:
    """Return `backend` if it is one of `BACKENDS`; else raise ValueError naming the place."""
    if backend not in BACKENDS:
        raise ValueError(f"{place} is {backend!r}: expected one of {', '.join(BACKENDS)}")
    return backend


_default = check_backend(os.environ.get("SSSD_BACKEND", "auto"), "environment SSSD_BACKEND")
if (_isa := os.environ.get("SSSD_CPU_ISA", "")) not in ("", "baseline", "avx2"):  # see cpu_isa.h
    raise ValueError(
        f"environment SSSD_CPU_ISA is {_isa!r}: expected baseline or avx2; leave it out for the "
        "widest instruction set of this processor"
    )


@contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Run the operators called inside by one backend, whatever `SSSD_BACKEND` says.

    It holds for the whole process: threads that enter it at the same time disturb each other, and
    give `backend=` to each call instead.

    Args:
        backend: "auto", "cuda", "triton", "cpu" or "reference".

    Raises:
        ValueError: for another name.

    Example:
        >>> with use_backend("reference"):
        ...     pass
    """
    global _default
    before, _default = _default, check_backend(backend)
    try:
        yield
    finally:
        _default = before


def _constant(function: Callable[..., R]) -> Callable[..., R]:
    """Ask a function once for each argument; torch.compile, too, asks it while it traces."""
    cached = functools.cache(function)

    @functools.wraps(function)
    def ask(*args: Hashable) -> R:
        return cached(*args)

    # All that `torch.compiler.assume_constant_result` does, beside importing torch._dynamo, which
    # takes longer than torch itself.
    ask._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return ask


@_constant
def _triton_missing() -> str:
    """Why Triton cannot launch a kernel on a GPU here, or nothing."""
    if importlib.util.find_spec("triton") is None:
        return "the package `triton` is not installed"
    try:
        # What launches kernels is compiled at its first use, by a C compiler with Python's headers.
        _ = importlib.import_module("triton.runtime.driver").driver.active.utils
    except Exception as error:  # of the compiler, of the driver, of an operating system
        return f"Triton cannot start ({' '.join(str(error).split())[:200]})"
    return ""


def _version(number: int) -> str:
    """13.0 of 13000."""
    return f"{number // 1000}.{number % 1000 // 10}"


@_constant
def _cuda_code_for(device: int) -> str:
    """Why the library cannot run on a CUDA device, or nothing."""
    runtime, driver = torch.ops.sssd.cuda_runtime(), torch.ops.sssd.cuda_driver()
    if driver // 1000 < runtime // 1000:
        return (
            f"_C_cuda.so was built with CUDA {_version(runtime)}, but this driver supports CUDA "
            f"{_version(driver)} (install a newer driver, or run `{BUILD_COMMAND}` with an older "
            "toolkit)"
        )
    major, minor = torch.cuda.get_device_capability(device)
    # Machine code serves its own major version from its minor upwards; PTX everything newer, where
    # the driver knows the toolkit that wrote it.
    built, ptx = torch.ops.sssd.cuda_architectures(), torch.ops.sssd.cuda_ptx()
    if any(a // 10 == major and a % 10 <= minor for a in built):
        return ""
    if not any(a <= 10 * major + minor for a in ptx):
        return (
            f"the library has no code for sm_{major}{minor}, only for {built} and as PTX {ptx} "
            f"(`CUDAARCHS={major}{minor} {BUILD_COMMAND}` builds it)"
        )
    if driver < runtime:
        return (
            f"the library has no code for sm_{major}{minor} but PTX of CUDA {_version(runtime)}, "
            f"and this driver supports CUDA {_version(driver)} (install a newer driver, or run "
            f"`CUDAARCHS={major}{minor} {BUILD_COMMAND}`)"
        )
    return ""


def _why_not(backend: str, tensor: Tensor) -> str:
    """Why a backend cannot run on such a tensor, or nothing."""
    device, dtype = tensor.device, tensor.dtype
    if backend == "reference":
        return ""
    if backend == "cpu":
        return MISSING if device.type == "cpu" else f"the tensors are on {device}"
    if device.type != "cuda":
        return f"the tensors are on {device}"
    if dtype == torch.float64:
        return "it does not support float64"
    if backend == "triton":
        return _triton_missing()
    return CUDA_MISSING or _cuda_code_for(device.index or 0)


def choose(operator: str, tensor: Tensor, backend: str | None = None) -> Choice:
    """Choose the backend of one call.

    Args:
        operator: what is to run, for the message.
        tensor: one of its inputs, for the device and the dtype.
        backend: asked for by the caller; None takes the context's, then `SSSD_BACKEND`'s.

    Returns:
        The backend and why.

    Raises:
        ValueError: for an unknown name, or a backend that was asked for and cannot run.
    """
    asked = _default if backend is None else check_backend(backend)
    if asked != "auto":
        obstacle = _why_not(asked, tensor)
        if obstacle:
            raise ValueError(
                f"backend {asked!r} cannot run {operator}: {obstacle}; "
                "pass backend='auto' or move the tensors"
            )
        return Choice(asked, "asked for")
    obstacles: list[str] = []
    for candidate in ("cuda", "triton") if tensor.device.type == "cuda" else ("cpu",):
        obstacle = _why_not(candidate, tensor)
        if not obstacle:
            reason = "; ".join([f"the fastest for {tensor.device.type} tensors", *obstacles])
            return Choice(candidate, reason)
        obstacles.append(f"not {candidate}: {obstacle}")
    return Choice("reference", "; ".join(obstacles))


# ---- the operators -------------------------------------------------------------------------------

_LIBRARY = torch.library.Library("sssd", "FRAGMENT")


def define(
    schema: str,
    *,
    fake: Callable[..., Any],
    backward: Callable[[str], Callable[..., Any]],
    setup_context: Callable[..., None],
    triton_module: str,
) -> None:
    """Register an operator: schema, shapes, gradient, and Triton's form of it.

    Args:
        schema: `name(arguments) -> results`.
        fake: from a backend's name ("native" or "triton") to the results' shapes, dtypes and memory
            formats on it, without data, as `torch.library.register_fake` takes it.
        backward: likewise to the gradient formula, as `torch.library.register_autograd` does.
        setup_context: what it saves.
        triton_module: module with a function `name` of the same signature; imported when called.
    """
    name = schema.split("(")[0]

    def run_triton(*args: Any) -> Any:
        first = args[0] if isinstance(args[0], Tensor) else args[0][0]
        with torch.cuda.device_of(first):  # Triton launches on the current device
            return getattr(importlib.import_module(triton_module), name)(*args)

    for backend, each in (("native", name), ("triton", f"{name}_triton")):
        _LIBRARY.define(schema.replace(name, each, 1), tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.register_fake(f"sssd::{each}", fake(backend), lib=_LIBRARY)
        torch.library.register_autograd(
            f"sssd::{each}", backward(backend), setup_context=setup_context, lib=_LIBRARY
        )
    _LIBRARY.impl(f"{name}_triton", run_triton, "CUDA")


def kernel(name: str, backend: str) -> Callable[..., Any]:
    """The registered operator that runs `name` on a backend other than the reference."""
    return getattr(torch.ops.sssd, f"{name}_triton" if backend == "triton" else name).default


def call(name: str, backend: str, *args: Any) -> Any:
    """Run `name` on a backend other than the reference.

    Raises:
        RuntimeError: see `refuse_transforms`.
    """
    refuse_transforms(name, *args)
    return kernel(name, backend)(*args)


def refuse_transforms(name: str, *args: Any) -> None:
    """Refuses what fused kernels have no derivative for, which would be lost in silence.

    Raises:
        RuntimeError: inside a transform of torch.func, or for a tensor of another such kind.
    """
    tensors = [x for arg in args for x in (arg if isinstance(arg, list) else [arg])]
    if torch._C._are_functorch_transforms_active() or any(
        isinstance(x, Tensor) and _is_transformed(x) for x in tensors
    ):
        raise RuntimeError(
            f"sssd::{name} was called with dual numbers (forward-mode differentiation), batched "
            "gradients, or inside a transform of torch.func (grad, vmap, jvp, jacrev, ...): the "
            "fused kernels support none of these; pass backend='reference', or call inside "
            "sssd.ops.use_backend('reference'), which supports all"
        )


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
