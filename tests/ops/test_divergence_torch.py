"""The divergence operator as torch sees it: opcheck, gradcheck, compile, export, autocast."""

import pytest
import torch

from sssd.ops import dispatch, feature_divergence, js_distance
from tests.ops.divergence_cases import (
    FORMATS,
    MEMBERS,
    OVER,
    make_maps,
    numbers_of,
    row_weights,
)
from tests.pairwise import pairwise

NATIVE = pytest.mark.skipif(bool(dispatch.MISSING), reason=dispatch.MISSING)
SHAPES = [(2, 6, 3, 5), (2, 6, 1, 2)]
SETTINGS = numbers_of(root="level")  # js_distance over channels


@NATIVE
@pairwise(dtype=[torch.float32, torch.bfloat16, torch.float64], memory_format=FORMATS)
def test_opcheck(dtype, memory_format):
    student, teacher = make_maps(SHAPES, dtype, FORMATS[memory_format])
    weights = [torch.ones(x.shape[0], *x.shape[2:]) for x in student]
    forward = dispatch.kernel("divergence_forward", "cpu")
    torch.library.opcheck(forward, (student, teacher, weights, *SETTINGS))
    student, teacher = ([x.detach() for x in side] for side in (student, teacher))
    values, factors, saved = forward(student, teacher, weights, *SETTINGS)
    backward = dispatch.kernel("divergence_backward", "cpu")
    inputs = (values, student, teacher, weights, factors, saved, *SETTINGS)
    torch.library.opcheck(backward, (*inputs, True, True))
    torch.library.opcheck(backward, (*inputs, True, False))


@pairwise(member=MEMBERS, over=OVER)
def test_gradcheck(member, over):
    """Of the reference: `test_matches_float64` holds the kernels' gradients to it."""
    student, teacher = make_maps([(1, 3, 2, 3), (1, 3, 1, 2)], torch.float64)

    def values(*maps):
        return feature_divergence(
            maps[:2], maps[2:], over=over, reduction="none", backend="reference", **MEMBERS[member]
        )

    assert torch.autograd.gradcheck(values, (*student, *teacher))


@NATIVE
def test_opcheck_where_the_rows_take_gradients():
    settings = numbers_of(rows="none")
    maps = make_maps(SHAPES)
    torch.library.opcheck(dispatch.kernel("divergence_forward", "cpu"), (*maps, [], *settings))


@NATIVE
@pytest.mark.parametrize("needs", [(True, False), (False, True), (False, False)])
def test_gradient_only_where_asked(needs):
    student, teacher = make_maps([(2, 16, 8, 8)])
    both = torch.autograd.grad(js_distance(student, teacher, backend="cpu"), student + teacher)
    student[0].requires_grad_(needs[0])
    teacher[0].requires_grad_(needs[1])
    value = js_distance(student, teacher, backend="cpu")
    assert value.requires_grad == any(needs)
    asked = [x for x in student + teacher if x.requires_grad]
    expected = [g for g, need in zip(both, needs, strict=True) if need]
    if asked:
        torch.testing.assert_close(
            list(torch.autograd.grad(value, asked)), expected, rtol=0, atol=0
        )


@NATIVE
def test_nothing_is_allocated_for_a_detached_teacher():
    student, teacher = make_maps([(1, 256, 32, 32)])
    values, factors, saved = dispatch.kernel("divergence_forward", "cpu")(
        [x.detach() for x in student], [x.detach() for x in teacher], [], *SETTINGS
    )
    one, none = dispatch.kernel("divergence_backward", "cpu")(
        values, student, teacher, [], factors, saved, *SETTINGS, True, False
    )
    assert len(one) == 1
    assert none == []
    assert saved.numel() * saved.element_size() == 16 * 32 * 32  # 16 bytes a row


@NATIVE
def test_one_level_may_need_no_gradient():
    student, teacher = make_maps(SHAPES)
    student[1].requires_grad_(False)
    js_distance(student, teacher, backend="cpu").backward()
    assert student[0].grad is not None
    assert student[1].grad is None


@NATIVE
def test_second_derivative_names_the_way_out():
    student, teacher = make_maps(SHAPES)
    value = js_distance(student, teacher, backend="cpu")
    (grad, *_) = torch.autograd.grad(value, student, create_graph=True)
    with pytest.raises(RuntimeError, match="backend='reference'"):
        grad.sum().backward()


def test_reference_has_a_second_derivative():
    student, teacher = make_maps([(1, 3, 2, 2)], torch.float64)

    def value(a, b):
        return js_distance([a], [b], backend="reference", root=None)

    assert torch.autograd.gradgradcheck(value, (student[0], teacher[0]))


@pytest.mark.slow
def test_compiles_once_for_maps_of_any_size():
    def loss(student, teacher):
        named = {str(i): 2 * x for i, x in enumerate(student)}
        each = js_distance(student, teacher, over="cells", rows="none")
        return js_distance(named, teacher) + each.square().sum()

    compiled = torch.compile(loss, fullgraph=True, dynamic=True)  # by inductor
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        for batch, size in ((3, 5), (4, 7), (6, 11)):
            student, teacher = make_maps([(batch, 8, size, size + 1), (batch, 8, 2, size - 1)])
            both = student + teacher
            value, expected = compiled(student, teacher), loss(student, teacher)
            torch.testing.assert_close(value, expected)
            grads = torch.autograd.grad(value, both)
            torch.testing.assert_close(grads, torch.autograd.grad(expected, both))


@pairwise(backend=[pytest.param("cpu", marks=NATIVE), "reference"], member=MEMBERS, over=OVER)
def test_compiles_whole_with_row_weights(backend, member, over):
    student, teacher = make_maps(SHAPES)
    settings = {"over": over, "backend": backend, **MEMBERS[member]}

    def loss(student, teacher, weights):
        return feature_divergence(student, teacher, row_weights=weights, **settings)

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    maps = (student, teacher, row_weights(student, over))
    torch.testing.assert_close(compiled(*maps), loss(*maps))


def test_exports():
    class Module(torch.nn.Module):
        def forward(self, a, b, w):
            return js_distance([a], [b], row_weights=[w])

    maps = torch.randn(1, 8, 4, 4), torch.randn(1, 8, 4, 4), torch.rand(1, 4, 4)
    program = torch.export.export(Module(), maps, strict=True)
    torch.testing.assert_close(program.module()(*maps), Module()(*maps))


@pytest.mark.parametrize("backend", [pytest.param("cpu", marks=NATIVE), "reference"])
def test_autocast_changes_nothing(backend):
    student, teacher = make_maps(SHAPES)
    teacher = [x.detach().bfloat16() for x in teacher]
    expected = js_distance(student, teacher, backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        value = js_distance(student, teacher, backend=backend)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=0, atol=0)


@NATIVE
@pairwise(memory_format=FORMATS, over=OVER)
def test_bitwise_repeatable_on_any_number_of_threads(memory_format, over):
    student, teacher = make_maps([(2, 48, 60, 70), (2, 48, 5, 5)], torch.float32)
    student, teacher = (
        [x.detach().contiguous(memory_format=FORMATS[memory_format]).requires_grad_() for x in side]
        for side in (student, teacher)
    )
    runs = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            values = js_distance(student, teacher, over=over, reduction="none", backend="cpu")
            runs.append((values, *torch.autograd.grad(values.sum(), student + teacher)))
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        assert all(torch.equal(x, y) for x, y in zip(run, runs[0], strict=True))


def test_strided_maps_are_taken():
    a = torch.randn(2, 10, 6, 8)[:, ::2, 1:, ::2].requires_grad_()
    b = torch.randn(2, 5, 5, 4)
    value = js_distance([a], [b])
    expected = js_distance([a.detach().contiguous()], [b])
    torch.testing.assert_close(value, expected, rtol=0, atol=0)
    (found,) = torch.autograd.grad(value, a)
    dense = a.detach().contiguous().requires_grad_()
    (gradient,) = torch.autograd.grad(js_distance([dense], [b]), dense)
    torch.testing.assert_close(found, gradient, rtol=0, atol=0)
