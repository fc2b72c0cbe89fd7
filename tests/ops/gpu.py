"""What the tests on a GPU share: they skip where there is none, and say what else they lack."""

import pytest
import torch

from sssd.ops import dispatch

DEVICE = "cuda"
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
BACKENDS = ["cuda", "triton"]
EACH = pytest.mark.parametrize("backend", BACKENDS)


def skip_unless(operator, backend):
    """Skip, with the reason, what a backend cannot run on the device."""
    try:
        dispatch.choose(operator, torch.empty(1, device=DEVICE), backend)
    except ValueError as error:
        pytest.skip(str(error))
