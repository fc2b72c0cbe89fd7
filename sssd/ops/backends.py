"""Which backend runs an operator: one rule for all of them, and a way to ask what it decides."""

from __future__ import annotations

import functools
import importlib.util
import os
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

BACKENDS = ("auto", "cuda", "triton", "cpu", "reference")
LIBRARY_PATH = Path(__file__).parent.parent / "_C.so"
BUILD_COMMAND = "python setup.py build_ext"

_default = "auto"
R = TypeVar("R")


class Choice(NamedTuple):
    """The backend that runs, and why."""

    backend: str
    reason: str


def _load_library() -> str:
    """Load the native operators; return why they are missing, or nothing."""
    if not LIBRARY_PATH.exists():
        return f"the native operators are not built (run `{BUILD_COMMAND}` in the checkout)"
    try:
        torch.ops.load_library(str(LIBRARY_PATH))
    except OSError as error:
        return f"{LIBRARY_PATH.name} does not load ({error}); rebuild it with `{BUILD_COMMAND}`"
    return ""


MISSING = _load_library()
if MISSING:
    warnings.warn(
        f"sssd: {MISSING}; the plain PyTorch reference runs instead: same results, slower",
        stacklevel=2,
    )


def check_backend(backend: str, place: str = "backend") -> str:
    """Return `backend` if it is one of `BACKENDS`; else raise ValueError naming the place."""
    if backend not in BACKENDS:
        raise ValueError(f"{place} is {backend!r}: expected one of {', '.join(BACKENDS)}")
    return backend


_default = check_backend(os.environ.get("SSSD_BACKEND", "auto"), "environment SSSD_BACKEND")


@contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Run the operators called inside by one backend, whatever `SSSD_BACKEND` says.

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
def has_native(operator: str, key: str) -> bool:
    """Whether the library holds a kernel of `sssd::operator` for a dispatch key (CPU, CUDA)."""
    return not MISSING and torch._C._dispatch_has_kernel_for_dispatch_key(f"sssd::{operator}", key)


@_constant
def has_triton() -> bool:
    """Whether Triton can be imported."""
    return importlib.util.find_spec("triton") is not None


@_constant
def _cuda_code_for(device: int) -> str:
    """Why the library cannot run on a CUDA device, or nothing."""
    major, minor = torch.cuda.get_device_capability(device)
    # Machine code serves its own major version from its minor upwards; PTX everything newer.
    built, ptx = torch.ops.sssd.cuda_architectures(), torch.ops.sssd.cuda_ptx()
    if any(a // 10 == major and a % 10 <= minor for a in built):
        return ""
    if any(a <= 10 * major + minor for a in ptx):
        return ""
    return (
        f"the library has no code for sm_{major}{minor}, only for {built} and as PTX {ptx} "
        f"(`CUDAARCHS={major}{minor} {BUILD_COMMAND}` builds it)"
    )


class Operator(NamedTuple):
    """What an operator offers, for `choose`."""

    name: str  # sssd::name, for which the library registers kernels for CPU and CUDA
    triton: bool = False  # whether it has a Triton form


def _why_not(operator: Operator, backend: str, tensor: Tensor) -> str:
    """Why a backend cannot run an operator on such a tensor, or nothing."""
    device, dtype = tensor.device, tensor.dtype
    if backend == "reference":
        return ""
    if backend == "cpu":
        if device.type != "cpu":
            return f"the tensors are on {device}"
        return "" if has_native(operator.name, "CPU") else MISSING or "it has no CPU kernel"
    if device.type != "cuda":
        return f"the tensors are on {device}"
    if dtype == torch.float64:
        return "it does not compute in float64"
    if backend == "triton":
        if not operator.triton:
            return "it has no form of this operator"
        return "" if has_triton() else "the package `triton` is not installed"
    if not has_native(operator.name, "CUDA"):
        return MISSING or f"the library was built without CUDA (`{BUILD_COMMAND}` with nvcc)"
    return _cuda_code_for(device.index or 0)


def choose(operator: Operator, tensor: Tensor, backend: str | None = None) -> Choice:
    """Choose the backend of one call.

    Args:
        operator: what is to run.
        tensor: one of its inputs, for the device and the dtype.
        backend: asked for by the caller; None takes the context's, then `SSSD_BACKEND`'s.

    Returns:
        The backend and why.

    Raises:
        ValueError: for an unknown name, or a backend that was asked for and cannot run.
    """
    asked = _default if backend is None else check_backend(backend)
    if asked != "auto":
        obstacle = _why_not(operator, asked, tensor)
        if obstacle:
            raise ValueError(
                f"backend {asked!r} cannot run {operator.name}: {obstacle}; "
                "pass backend='auto' or move the tensors"
            )
        return Choice(asked, "asked for")
    obstacles: list[str] = []
    for candidate in ("cuda", "triton") if tensor.device.type == "cuda" else ("cpu",):
        obstacle = _why_not(operator, candidate, tensor)
        if not obstacle:
            reason = "; ".join([f"the fastest for {tensor.device.type} tensors", *obstacles])
            return Choice(candidate, reason)
        obstacles.append(f"not {candidate}: {obstacle}")
    return Choice("reference", "; ".join(obstacles))
