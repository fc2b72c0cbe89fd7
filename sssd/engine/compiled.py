"""Compilation of the part of a model that is compiled without surprises: its backbone."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def compiled(module: nn.Module, wanted: bool, backend: str = "inductor") -> Iterator[None]:
    """Lets a module train by `torch.compile` for a while, and leaves no trace of it.

    Its `forward` alone is replaced, on the object: names of weights stay, hooks run outside of what
    is compiled and may come and go, and copies made before are not compiled. In evaluation mode it
    computes as before, so that no compiler waits for the shapes of validation images.

    The first step waits for the compiler, and that of a second image size; all further sizes share
    what is compiled then. Sums run in another order: losses agree with those of the module itself
    to rounding, and an interrupted run of several image sizes with one that was not.

    Args:
        module: not compiled any more when the context is left.
        wanted: without it nothing is done.
        backend: of `torch.compile`; "inductor" needs a C++ compiler, on a GPU Triton.
    """
    if not wanted:
        yield
        return
    plain = module.forward
    fast = torch.compile(plain, backend=backend)

    def forward(*inputs: Any) -> Any:
        return fast(*inputs) if module.training else plain(*inputs)

    module.forward = forward
    try:
        yield
    finally:
        del module.forward
