"""The divergence operator on a GPU: both backends against float64, and what a device adds."""

import pytest
import torch

from bench.gpu_speed import replayed
from sssd.ops import dispatch, explain, feature_divergence, js_distance
from sssd.ops.divergence_kernels import OPERATOR
from tests.ops.divergence_cases import (
    FORMATS,
    MEMBERS,
    ON_A_GPU,
    OVER,
    PEAKED,
    PEAKED_ERRORS,
    SOFTMAX_ROWS,
    assert_matches_truth,
    make_maps,
    numbers_of,
    row_weights,
)
from tests.ops.gpu import BACKENDS, DEVICE, EACH, NEEDS_GPU, skip_unless
from tests.pairwise import pairwise

pytestmark = NEEDS_GPU
SHAPES = [(2, 70, 9, 16), (2, 70, 3, 7), (2, 70, 2, 3), (1, 256, 4, 8)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SETTINGS = numbers_of(root="level")  # js_distance over channels


@pytest.fixture(autouse=True)
def _runs(backend):
    skip_unless(OPERATOR, backend)


def device_maps(*args, device=DEVICE, **kwargs):
    """Like make_maps, on the device."""
    return tuple(
        [x.detach().to(device).requires_grad_() for x in side]
        for side in make_maps(*args, **kwargs)
    )


@pairwise(member=MEMBERS, over=OVER, memory_format=FORMATS, dtype=DTYPES, backend=BACKENDS)
def test_matches_float64(member, over, memory_format, dtype, backend):
    maps = device_maps(SHAPES, dtype, FORMATS[memory_format])
    assert_matches_truth(*maps, backend, ON_A_GPU, over=over, **MEMBERS[member])


@pairwise(
    member=SOFTMAX_ROWS,
    gap=[1e-2, 1.0, 10.0],
    over=OVER[:2],
    memory_format=FORMATS,
    backend=BACKENDS,
)
def test_rows_of_one_large_mass(member, gap, over, memory_format, backend):
    layout = FORMATS[memory_format]
    maps = device_maps([(2, 70, 9, 16)], memory_format=layout, gap=gap, spread=PEAKED)
    tolerance = tuple(4 * error for error in PEAKED_ERRORS)
    assert_matches_truth(*maps, backend, tolerance, over=over, **SOFTMAX_ROWS[member])


@pairwise(over=OVER[1:], memory_format=FORMATS, dtype=DTYPES, backend=BACKENDS)
def test_long_rows(dtype, over, memory_format, backend):
    """Kept by one block, by a cluster, or read twice, in pieces."""
    maps = device_maps([(2, 24, 100, 168), (2, 24, 25, 42)], dtype, FORMATS[memory_format])
    assert_matches_truth(*maps, backend, ON_A_GPU, over=over)


@EACH
def test_more_levels_than_one_launch_holds(backend):
    maps = device_maps([(1, 4, 2, h) for h in range(1, 36)])
    assert_matches_truth(*maps, backend, ON_A_GPU, root="level")


@pairwise(over=OVER, backend=BACKENDS)
def test_row_weights_and_empty_levels(over, backend):
    shapes = [(2, 6, 3, 5), (2, 6, 0, 4)]
    maps = device_maps(shapes)
    weights = [w.to(DEVICE) for w in row_weights(maps[0], over)]
    settings = {"over": over, "row_weights": weights, "root": "level"}
    assert_matches_truth(*maps, backend, ON_A_GPU, **settings)


@pairwise(member=MEMBERS, over=OVER, backend=BACKENDS)
def test_every_row(member, over, backend):
    value, gradient = ON_A_GPU
    settings = MEMBERS[member] | {"over": over, "rows": "none"}
    tolerance = 10 * value, gradient  # of a single row
    assert_matches_truth(*device_maps(SHAPES), backend, tolerance, **settings)


@EACH
def test_equal_maps_give_zero_and_no_gradient(backend):
    maps = device_maps([(2, 64, 5, 5)])[0]
    for over in OVER:
        value = js_distance(maps, maps, over=over, backend=backend)
        (grad,) = torch.autograd.grad(value, maps)
        assert value == 0
        assert (grad == 0).all()


@pairwise(memory_format=FORMATS, backend=BACKENDS)
def test_opcheck(memory_format, backend):
    student, teacher = device_maps(SHAPES[:2], memory_format=FORMATS[memory_format])
    forward = dispatch.kernel("divergence_forward", backend)
    torch.library.opcheck(forward, (student, teacher, [], *SETTINGS))
    student, teacher = ([x.detach() for x in side] for side in (student, teacher))
    values, factors, saved = forward(student, teacher, [], *SETTINGS)
    backward = dispatch.kernel("divergence_backward", backend)
    inputs = (values, student, teacher, [], factors, saved, *SETTINGS)
    torch.library.opcheck(backward, (*inputs, True, False))


def value_and_gradients(student, teacher, backend, **settings):
    value = js_distance(student, teacher, backend=backend, **settings)
    return value, *torch.autograd.grad(value, student + teacher)


@pairwise(over=["channels", "cells"], backend=BACKENDS)
def test_bitwise_repeatable_on_any_stream_without_a_sync(over, backend):
    maps = device_maps([(2, 48, 60, 72), (2, 48, 5, 5)])
    expected = value_and_gradients(*maps, backend, over=over)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.stream(stream):
            again = value_and_gradients(*maps, backend, over=over)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    stream.synchronize()
    assert all(torch.equal(x, y) for x, y in zip(again, expected, strict=True))


@pairwise(over=["channels", "cells"], backend=BACKENDS)
def test_in_a_cuda_graph(over, backend):
    maps = device_maps([(2, 48, 60, 72), (2, 48, 5, 5)])
    results, replay = replayed(lambda: value_and_gradients(*maps, backend, over=over))
    with torch.no_grad():
        for x in maps[0]:
            x.copy_(torch.randn_like(x))
    replay()
    expected = value_and_gradients(*maps, backend, over=over)
    assert all(torch.equal(x, y) for x, y in zip(results, expected, strict=True))


@EACH
def test_on_the_second_device(backend):
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device only")
    expected = value_and_gradients(*device_maps(SHAPES), backend)
    with torch.cuda.device(0):
        second = value_and_gradients(*device_maps(SHAPES, device="cuda:1"), backend)
        assert torch.cuda.current_device() == 0
    for x, y in zip(second, expected, strict=True):
        assert x.device == torch.device("cuda:1")
        torch.testing.assert_close(x.cpu(), y.cpu())


@pairwise(memory_format=FORMATS, backend=BACKENDS)
def test_more_than_two_to_the_31_elements(memory_format, backend):
    if torch.cuda.mem_get_info()[0] < 30 << 30:
        pytest.skip("less than 30 GiB of free device memory")
    shape = (2, 16, 8192, 8200)
    teacher = torch.zeros(shape, dtype=torch.float16, device=DEVICE)
    teacher = teacher.contiguous(memory_format=FORMATS[memory_format])
    student = torch.zeros_like(teacher)
    end = torch.randn(1, 16, 1, 8200, dtype=torch.float16, device=DEVICE)
    student[1:, :, -1:] = end
    assert student.numel() > 2**31
    settings = {"rows": "sum", "backend": backend}
    grads = []
    for a, b in ((student, teacher), (end, torch.zeros_like(end))):
        a.requires_grad_()
        value = feature_divergence([a], [b], **settings)
        grads.append((value.detach(), *torch.autograd.grad(value, a)))
    (value, grad), (expected, expected_grad) = grads
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grad[1:, :, -1:], expected_grad)
    assert not grad[:1].any()


@EACH
def test_compiles_without_a_graph_break(backend):
    maps = device_maps([(1, 8, 4, 4), (1, 8, 2, 2)])

    def loss(a, b):
        return js_distance([2 * x for x in a], b, backend=backend)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    both = maps[0] + maps[1]
    grads = torch.autograd.grad(compiled(*maps), both)
    torch.testing.assert_close(grads, torch.autograd.grad(loss(*maps), both))


@EACH
def test_auto_takes_the_first_that_can(backend):
    text = explain(js_distance, device_maps(SHAPES)[0], backend=backend)
    assert f"backend '{backend}'" in text
