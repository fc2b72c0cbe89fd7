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


def replayed(call):
    """`call` once as a CUDA graph, and a way to run it again."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):  # compiles, and fills the caches that a capture must not
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()
    return result, graph.replay
