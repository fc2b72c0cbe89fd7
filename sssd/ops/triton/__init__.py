"""Operators in Triton: what runs where the library has no CUDA code for a device.

A fallback: one simple kernel a level and pass, nothing tuned. No size is part of what a kernel is
compiled for: images of a new size do not compile anew.
"""

import inspect
from collections.abc import Callable
from typing import Any

import triton


def generic(kernel: Callable[..., None]) -> Any:
    """`triton.jit` that compiles for the types of the arguments, and nothing else of them."""
    parameters = inspect.signature(kernel).parameters.values()
    names = [p.name for p in parameters if p.annotation != "tl.constexpr"]
    return triton.jit(kernel, do_not_specialize=names)
