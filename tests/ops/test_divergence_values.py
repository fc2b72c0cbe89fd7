"""Values at the edges: tiny and huge gaps, masked logits, NaN, infinity, sums of any kind."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.accuracy import FORMS, gap_maps
from sssd.ops import feature_divergence, js_distance, js_divergence
from tests.ops.divergence_cases import FORMATS, MEMBERS, OVER, make_maps, truth
from tests.pairwise import pairwise

INF = math.inf


def rows(*values):
    """One row over channels of one cell."""
    return [torch.tensor(values).view(1, -1, 1, 1)]


@pytest.mark.parametrize("divergence", [1e-1, 1e-4, 1e-7, 1e-10, 1e-13])
def test_relative_accuracy_of_small_divergences(divergence):
    a, b = gap_maps(divergence)
    exact = FORMS["ours, float64"](a.double(), b.double())
    ours = js_divergence([a], [b], backend="cpu").double()
    assert ours >= 0
    assert ours.item() == pytest.approx(exact.mean().item(), rel=1e-6)


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-5])
def test_gradient_keeps_its_relative_accuracy(gap):
    student, teacher = make_maps([(1, 256, 4, 4)], gap=gap)
    value = js_distance(student, teacher, backend="cpu")
    (grad,) = torch.autograd.grad(value, student)
    one = torch.ones(1)
    _, expected = truth(student, teacher, one, root="level")
    error = (grad.double() - expected[0]).norm() / expected[0].norm()
    assert error < 1e-4


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_one_side_masked(backend):
    value = js_divergence(rows(-INF, 0.0, 1.0), rows(0.5, 0.0, -INF), backend=backend)
    p = torch.tensor([0.0, 1.0, math.e], dtype=torch.float64)
    q = torch.tensor([math.exp(0.5), 1.0, 0.0], dtype=torch.float64)
    p, q = p / p.sum(), q / q.sum()
    m = (p + q) / 2
    expected = (torch.xlogy(p, p / m) + torch.xlogy(q, q / m)).sum() / 2
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("over", OVER)
def test_masked_logits_take_no_gradient(over, backend):
    student, teacher = make_maps([(2, 20, 3, 5)])
    with torch.no_grad():
        student[0][0, 3:6] = -INF
        teacher[0][0, 5:8] = -INF
        student[0][1] = teacher[0][1] = -INF  # rows without a finite logit count 0
    value = js_distance(student, teacher, over=over, backend=backend)
    grads = torch.autograd.grad(value, student + teacher)
    assert 0 < value < INF
    for x, g in zip(student + teacher, grads, strict=True):
        assert g.isfinite().all()
        assert g[0].any()
        assert (g[x == -INF] == 0).all()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_kl_is_infinite_where_the_student_excludes_what_the_teacher_has(backend):
    settings = {"divergence": "kl", "backend": backend}
    assert feature_divergence(rows(-INF, 0.0), rows(0.0, 0.0), **settings) == INF
    allowed = feature_divergence(rows(0.0, 0.0), rows(-INF, 0.0), **settings)
    assert allowed.item() == pytest.approx(math.log(2), rel=1e-6)


@pairwise(
    divergence=["kl", "reverse_kl"], over=OVER, root=[None, "row", "level"],
    backend=["cpu", "reference"],
)  # fmt: skip
def test_a_row_that_is_infinitely_far_pulls_at_nothing(divergence, over, root, backend):
    """Else its inf and NaN would reach every parameter before it."""
    student, teacher = make_maps([(2, 20, 3, 5)])
    excludes = (student if divergence == "kl" else teacher)[0]
    with torch.no_grad():
        excludes[0, 3:6, 1:] = -INF
    settings = {"over": over, "root": root, "backend": backend, "reduction": "none"}
    value = feature_divergence(student, teacher, divergence=divergence, **settings)
    assert value == INF
    for grad in torch.autograd.grad(value.sum(), student + teacher):
        assert grad.isfinite().all()


@pairwise(member=MEMBERS, bad=[math.nan, INF], backend=["cpu", "reference"])
def test_nan_and_infinity_show(member, bad, backend):
    student, teacher = make_maps([(1, 40, 2, 2), (1, 40, 1, 1)])
    with torch.no_grad():
        student[0][0, 7, 1, 1] = bad
    values = feature_divergence(
        student, teacher, reduction="none", backend=backend, **MEMBERS[member]
    )
    assert not values[0].isfinite()
    assert values[1].isfinite()


shapes = st.tuples(*(st.integers(1, n) for n in (2, 40, 5, 9)))
scales = st.sampled_from([0.0, 1e-6, 1e-3, 1.0, 30.0, 1e4])


@settings(max_examples=60, deadline=None)
@given(
    shape=shapes, scale=scales, gap=scales, over=st.sampled_from(OVER),
    memory_format=st.sampled_from(list(FORMATS)), temperature=st.sampled_from([0.1, 1.0, 7.0]),
    one_hot=st.booleans(), seed=st.integers(0, 1000),
)  # fmt: skip
def test_any_values(shape, scale, gap, over, memory_format, temperature, one_hot, seed):
    generator = torch.Generator().manual_seed(seed)
    a = scale * torch.randn(shape, generator=generator)
    b = a + gap * torch.randn(shape, generator=generator)
    if one_hot:
        a[:, 0] = 1e4
    maps = [x.contiguous(memory_format=FORMATS[memory_format]).requires_grad_() for x in (a, b)]
    options = {"over": over, "temperature": temperature, "root": None}
    value = js_distance(maps[:1], maps[1:], backend="cpu", **options)
    grads = torch.autograd.grad(value, maps)
    expected, expected_grads = truth(maps[:1], maps[1:], torch.ones(1), **options)
    assert 0 <= value.item() <= math.log(2) + 1e-6
    # a - b, and the log-sum-exp in logits that backward reads, are rounded to 2^-24 of themselves:
    # of logits of 1e4 / 0.1 that is 0.006 in an exponent. The price of d's accuracy where maps are
    # close, and of 16 bytes a row.
    largest = max(x.detach().abs().max().item() for x in maps) / temperature
    rounding = 2**-24 * max(1.0, largest)
    # A d that is off by r moves the value by r sqrt(D) and, where the maps are equal, by r^2 / 8.
    slack = rounding * math.sqrt(expected.item()) + rounding**2 / 8 + 1e-12
    assert abs(value.item() - expected.item()) <= 1e-6 * expected.item() + slack
    for g, e in zip(grads, expected_grads, strict=True):
        assert g.isfinite().all()
        # The gradient, and with it the rounding, is divided by temperature.
        bound = 3e-6 * e.abs().max().item() + rounding / min(1.0, temperature) + 1e-9
        assert (g.double() - e).abs().max().item() <= bound
