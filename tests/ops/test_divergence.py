"""The divergence operator on the CPU against the float64 reference."""

import math

import pytest
import torch

from sssd.ops import feature_divergence, js_distance, js_divergence
from tests.ops.divergence_cases import (
    FORMATS,
    MEMBERS,
    ON_A_GPU,
    OVER,
    PEAKED,
    PEAKED_ERRORS,
    SOFTMAX_ROWS,
    TOLERANCES,
    assert_gradient,
    assert_matches_truth,
    make_maps,
    row_weights,
)
from tests.ops.rounding import half_ulp
from tests.pairwise import pairwise

# Not 1 x 1, which test_odd_shapes has: over its cells a row holds one or two elements, and the
# gradient of a standardised or unit row is 0 by cancellation, which has no relative error.
SHAPES = [(2, 70, 9, 16), (2, 70, 3, 7), (2, 70, 2, 3)]


@pairwise(member=MEMBERS, over=OVER, memory_format=FORMATS, dtype=TOLERANCES)
def test_matches_float64(member, over, memory_format, dtype):
    student, teacher = make_maps(SHAPES, dtype, FORMATS[memory_format])
    assert_matches_truth(student, teacher, over=over, **MEMBERS[member])


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_the_check_of_gradients_sees_a_small_fault(dtype):
    """Off by 1e-4; in half precision by one and a half of the distance of neighbours."""
    exact = torch.randn(70, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    half = dtype in (torch.bfloat16, torch.float16)
    fault = 3 * half_ulp(exact, dtype) if half else 1e-4 * exact
    for _, error in (TOLERANCES[dtype], ON_A_GPU):
        assert_gradient(exact.to(dtype), exact, error)
        with pytest.raises(AssertionError, match="beyond the largest error"):
            assert_gradient((exact + fault).to(dtype), exact, error)


@pairwise(member=SOFTMAX_ROWS, gap=[1e-4, 1e-2, 1.0, 10.0], over=OVER[:2], memory_format=FORMATS)
def test_rows_of_one_large_mass(member, gap, over, memory_format):
    maps = make_maps([(2, 70, 9, 16)], memory_format=FORMATS[memory_format], gap=gap, spread=PEAKED)
    assert_matches_truth(*maps, tolerance=PEAKED_ERRORS, over=over, **SOFTMAX_ROWS[member])


@pairwise(
    shape=[(1, 3, 7, 11), (3, 1, 4, 5), (2, 300, 2, 2), (1, 2, 1, 90), (2, 70, 1, 1)],
    over=OVER,
    memory_format=FORMATS,
)
def test_odd_shapes(shape, over, memory_format):
    student, teacher = make_maps([shape], memory_format=FORMATS[memory_format])
    assert_matches_truth(student, teacher, over=over, root="level")


@pytest.mark.parametrize("member", ["js", "standardize"])
@pytest.mark.parametrize(
    ("shape", "over", "memory_format"),
    [
        ((2, 5, 260, 300), "cells", "contiguous"),  # rows longer than a piece, few of them: split
        ((1, 40, 150, 190), "cells", "channels_last"),
        ((1, 20, 70, 80), "image", "contiguous"),
        ((3, 7, 90, 100), "images_and_cells", "channels_last"),
        ((2, 160, 7, 9), "images_and_cells", "contiguous"),  # rows in several pieces, not split
    ],
)
def test_long_rows(shape, over, memory_format, member):
    student, teacher = make_maps([shape], memory_format=FORMATS[memory_format])
    assert_matches_truth(student, teacher, over=over, **MEMBERS[member])


def test_more_levels_than_one_launch_holds():
    student, teacher = make_maps([(1, 4, 2, h) for h in range(1, 36)])
    assert_matches_truth(student, teacher, root="level")


@pytest.mark.parametrize("over", OVER)
def test_mixed_dtypes_and_formats(over):
    student, _ = make_maps(SHAPES, torch.bfloat16, torch.channels_last)
    _, teacher = make_maps(SHAPES, torch.float32)
    tolerance = TOLERANCES[torch.bfloat16]
    assert_matches_truth(student, teacher, over=over, tolerance=tolerance)


@pairwise(rows=["mean", "sum"], over=OVER, memory_format=FORMATS)
def test_row_weights(rows, over, memory_format):
    student, teacher = make_maps(SHAPES, memory_format=FORMATS[memory_format])
    weights = row_weights(student, over)
    weights[2].zero_()  # no row counts: the value is 0
    settings = {"over": over, "rows": rows, "row_weights": weights, "root": "level"}
    assert_matches_truth(student, teacher, **settings)
    values = feature_divergence(student, teacher, reduction="none", **settings)
    assert values[2] == 0


@pairwise(member=MEMBERS, over=OVER, memory_format=FORMATS, dtype=[torch.float32, torch.float16])
def test_every_row(member, over, memory_format, dtype):
    maps = make_maps(SHAPES, dtype, FORMATS[memory_format])
    settings = MEMBERS[member] | {"over": over, "rows": "none"}
    assert_matches_truth(*maps, **settings)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_rows_lie_as_their_weights_do_and_make_up_the_value(backend):
    student, teacher = make_maps([(2, 5, 3, 4), (2, 0, 2, 2), (2, 5, 1, 2)], torch.float64)
    student[0].data[1, :, 2, 3] = -math.inf  # counts 0, and nothing pulls at it
    each = js_distance(student, teacher, rows="none", backend=backend)
    assert each.shape == (2 * 12 + 2 * 4 + 2 * 2,)
    shapes = [(2, 3, 4), (2, 2, 2), (2, 1, 2)]
    pictures = [x.view(shape) for x, shape in zip(each.split([24, 8, 4]), shapes, strict=True)]
    assert pictures[0][1, 2, 3] == 0
    assert (pictures[1] == 0).all()
    cell = [[side[0][1:, :, 1:2, 2:3]] for side in (student, teacher)]
    torch.testing.assert_close(pictures[0][1, 1, 2], js_distance(*cell, backend=backend))
    levels = torch.stack([x.square().mean() for x in pictures]).sqrt()
    expected = js_distance(student, teacher, reduction="none", backend=backend)
    torch.testing.assert_close(levels, expected)
    (grad, *_) = torch.autograd.grad(each.sum(), student)
    assert (grad[1, :, 2, 3] == 0).all()
    assert grad.isfinite().all()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_row_of_weight_zero_may_hold_nan(backend):
    student, teacher = make_maps([(1, 4, 2, 2)])
    with torch.no_grad():
        student[0][:, :, 0, 0] = math.nan
    weights = torch.ones(1, 2, 2)
    weights[0, 0, 0] = 0
    value = js_distance(student, teacher, row_weights=[weights], backend=backend)
    (grad,) = torch.autograd.grad(value, student)
    student[0].data.nan_to_num_()
    expected = js_distance(student, teacher, row_weights=[weights], backend=backend)
    assert value == expected > 0
    assert torch.equal(grad, *torch.autograd.grad(expected, student))


@pairwise(shape=[(0, 4, 3, 3), (2, 4, 0, 3), (2, 0, 3, 3)], over=OVER, backend=["cpu", "reference"])
def test_empty_levels_count_zero(shape, over, backend):
    student, teacher = make_maps([shape, (2, 4, 3, 3) if shape[0] else shape])
    values = js_distance(student, teacher, over=over, reduction="none", backend=backend)
    grads = torch.autograd.grad(values.sum(), student + teacher)
    assert values[0] == 0
    assert grads[0].shape == shape
    every = js_distance(student[:1], teacher[:1], over=over, rows="none", backend=backend)
    grads = torch.autograd.grad(every.sum(), student[:1] + teacher[:1])
    assert [grad.shape for grad in grads] == [shape, shape]


def test_equal_maps_give_zero_and_no_gradient():
    maps = [torch.randn(2, 64, 5, 5, requires_grad=True)]
    for over in OVER:
        value = js_distance(maps, maps, over=over, backend="cpu")
        (grad,) = torch.autograd.grad(value, maps)
        assert value == 0
        assert (grad == 0).all()


def test_disjoint_rows_reach_the_bound():
    student = [torch.tensor([100.0, 0, 0]).view(1, 3, 1, 1)]
    teacher = [torch.tensor([0.0, 100, 0]).view(1, 3, 1, 1)]
    divergence = js_divergence(student, teacher, backend="cpu")
    assert divergence.item() == pytest.approx(math.log(2), rel=1e-6)
