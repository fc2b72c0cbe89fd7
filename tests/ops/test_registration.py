"""What PyTorch's other ways to differentiate meet: an answer that is right, or the way out."""

import pytest
import torch
from torch.autograd import forward_ad

from sssd.ops import (
    dispatch,
    feature_divergence,
    js_distance,
    label_heatmap,
    paint_boxes,
    pool_boxes,
    use_backend,
)
from tests.ops.divergence_cases import MEMBERS, make_maps

NATIVE = pytest.mark.skipif(bool(dispatch.MISSING), reason=dispatch.MISSING)
BACKENDS = [pytest.param("cpu", marks=NATIVE), "reference"]
BOXES = torch.tensor([[0.0, 0.0, 9.0, 9.0], [3.0, 3.0, 8.0, 8.0]])
INDEX = torch.tensor([0, 1])
TEACHER = torch.randn(2, 3, 4, 4, dtype=torch.float64)
LAST = TEACHER.contiguous(memory_format=torch.channels_last)
# Each of one tensor, smooth.
FUNCTIONS = {
    "divergence": (lambda x: js_distance([x], [TEACHER], reduction="none"), (2, 3, 4, 4)),
    "formats": (lambda x: js_distance([LAST], [x], reduction="none"), (2, 3, 4, 4)),  # a copy first
    "pool": (lambda x: pool_boxes([x], BOXES, INDEX, (16, 16)), (2, 3, 4, 4)),
    "paint": (lambda x: paint_boxes(x, BOXES, INDEX, (16, 16), [(4, 4)], 2)[0], (2, 3)),
}


def dual_numbers(f, x):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(x, torch.ones_like(x)))).tangent


def batched_gradients(f, x):
    return torch.autograd.functional.jacobian(f, x, vectorize=True)


# How it is asked for, and the same answer from plain backward passes.
TRANSFORMS = {
    "dual numbers": (dual_numbers, lambda jacobian, f, x: jacobian.flatten(-x.dim()).sum(-1)),
    "jvp": (
        lambda f, x: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1],
        lambda jacobian, f, x: jacobian.flatten(-x.dim()).sum(-1),
    ),
    "grad": (
        lambda f, x: torch.func.grad(lambda x: f(x).sum())(x),
        lambda jacobian, f, x: jacobian.flatten(0, -x.dim() - 1).sum(0),
    ),
    "jacrev": (lambda f, x: torch.func.jacrev(f)(x), lambda jacobian, f, x: jacobian),
    "jacfwd": (lambda f, x: torch.func.jacfwd(f)(x), lambda jacobian, f, x: jacobian),
    "batched": (batched_gradients, lambda jacobian, f, x: jacobian),
    "vmap": (
        lambda f, x: torch.func.vmap(f)(torch.stack([x, 2 * x])),
        lambda jacobian, f, x: torch.stack([f(x), f(2 * x)]),
    ),
}


@NATIVE
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_are_refused_by_the_kernels_and_right_by_the_reference(transform, name):
    (f, shape), (asked, expected) = FUNCTIONS[name], TRANSFORMS[transform]
    x = torch.randn(shape, dtype=torch.float64)
    with use_backend("cpu"), pytest.raises(RuntimeError, match="backend='reference'"):
        asked(f, x)
    truth = expected(torch.autograd.functional.jacobian(f, x), f, x)  # by the kernels
    with use_backend("reference"):
        torch.testing.assert_close(asked(f, x), truth)


@NATIVE
def test_forward_mode_is_no_silent_zero_when_compiled():
    def tangent(x):
        return torch.func.jvp(lambda x: js_distance([x], [TEACHER]), (x,), (x,))[1]

    compiled = torch.compile(tangent, fullgraph=True, backend="eager")
    with pytest.raises(torch._dynamo.exc.Unsupported, match="backend='reference'"):
        compiled(torch.randn_like(TEACHER))


def test_objects_may_be_batched_by_vmap():
    images = torch.stack([INDEX, INDEX.flip(0)])
    x = torch.randn(2, 3, 4, 4)
    with use_backend("reference"):
        pooled = torch.func.vmap(lambda index: pool_boxes([x], BOXES, index, (16, 16)))(images)
        for index, values in zip(images, pooled, strict=True):
            torch.testing.assert_close(values, pool_boxes([x], BOXES, index, (16, 16)))
    with pytest.raises(RuntimeError, match="backend='reference'"):
        torch.func.vmap(lambda b: label_heatmap(b, INDEX, INDEX, (16, 16), [(4, 4)], 2, 2))(
            torch.stack([BOXES, BOXES])
        )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("member", MEMBERS)
def test_a_teacher_of_inference_mode_is_a_constant(member, backend):
    shapes = [(2, 6, 3, 5), (2, 6, 1, 2)]
    student, teacher = make_maps(shapes, torch.float64)
    weights = [torch.rand(2, *shape[2:]) for shape in shapes]
    with torch.inference_mode():
        frozen, frozen_weights = ([x.clone() for x in side] for side in (teacher, weights))

    def gradient(student, teacher, weights):
        value = feature_divergence(
            student, teacher, row_weights=weights, backend=backend, **MEMBERS[member]
        )
        (gradient,) = torch.autograd.grad(value, student[:1])
        return gradient

    expected = gradient(student, [x.detach() for x in teacher], weights)
    assert torch.equal(gradient(student, frozen, frozen_weights), expected)
    with torch.inference_mode():
        frozen_student = student[1].clone()
    mixed = [student[0], frozen_student]  # one level of the student, too, may be a constant
    assert torch.equal(gradient(mixed, frozen, frozen_weights), expected)
    with torch.inference_mode():
        assert feature_divergence(frozen, frozen, backend=backend, **MEMBERS[member]) < 1e-12


@pytest.mark.parametrize("backend", BACKENDS)
def test_objects_of_inference_mode_are_constants(backend):
    with torch.inference_mode():
        boxes, index = BOXES.clone(), INDEX.clone()
    level = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    values = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)

    def gradients(boxes, index):
        pooled = pool_boxes([level], boxes, index, (16, 16), backend=backend)
        painted = paint_boxes(values, boxes, index, (16, 16), [(4, 4)], 2, backend=backend)[0]
        return torch.autograd.grad((pooled**2).sum() + (painted**2).sum(), (level, values))

    for ours, expected in zip(gradients(boxes, index), gradients(BOXES, INDEX), strict=True):
        assert torch.equal(ours, expected)
