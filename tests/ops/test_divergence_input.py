"""What the divergence operator refuses, and that each message names the thing and the way out."""

from collections import OrderedDict
from typing import get_args

import numpy as np
import pytest
import torch

from sssd.losses import lgd_loss
from sssd.ops import dispatch, explain, feature_divergence, js_distance
from sssd.ops.divergence_kernels import Measure, Normalize, is_defined, number
from tests.ops.divergence_cases import numbers_of

MAPS = [torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 1, 1)]
NAMED = {"p3": MAPS[0], "p4": MAPS[1]}


@pytest.mark.parametrize(
    ("student", "teacher", "error", "message"),
    [
        (MAPS[0], MAPS, TypeError, "student has 1 levels but teacher has 2"),
        (None, MAPS, TypeError, "student is a NoneType: pass a list of tensors, one per level"),
        (MAPS, set(MAPS), TypeError, "teacher is a set: pass a list"),
        (MAPS, "p3", TypeError, "teacher is a str: pass a list"),
        (MAPS, [MAPS], TypeError, r"teacher\[0\] is a list: expected a tensor"),
        (MAPS, [x.numpy() for x in MAPS], TypeError, r"teacher\[0\] is a ndarray"),
        (NAMED, {"p3": MAPS[0]}, TypeError, r"teacher has no \['p4'\], only \['p3'\]"),
        ({"p4": MAPS[1]}, NAMED, TypeError, r"student has no \['p3'\], only \['p4'\]"),
        ([], [], ValueError, "student is empty"),
        (MAPS, MAPS[:1], TypeError, "student has 2 levels but teacher has 1"),
        (MAPS, MAPS[::-1], ValueError, r"level 0: student has shape \(1, 4, 2, 2\) but teacher"),
        ([MAPS[0][0]], [MAPS[0][0]], TypeError, r"student\[0\] has shape \(4, 2, 2\): .*x\[None\]"),
        (torch.stack(MAPS[:1]), MAPS[:1], TypeError, r"student\[0\] has shape \(1, 1, 4, 2, 2\)"),
        ([MAPS[0].int()], MAPS[:1], TypeError, r"student\[0\] is torch.int32"),
        ([MAPS[0], MAPS[1].half()], MAPS, TypeError, r"student\[1\] is torch.float16 but student"),
        (MAPS, [x.to("meta") for x in MAPS], ValueError, r"teacher\[0\] is on meta but student"),
    ],
)
def test_bad_maps(student, teacher, error, message):
    with pytest.raises(error, match=message):
        js_distance(student, teacher)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"over": "rows"}, "over is 'rows': expected one of 'channels'"),
        ({"normalize": "none"}, "'js' compares distributions.*normalize='softmax'"),
        ({"divergence": "cosine"}, "'cosine' compares directions.*normalize='l2'"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"eps": -1.0}, "eps is -1.0"),
        ({"root": "rows"}, "root is 'rows'"),
        ({"reduction": "max"}, "reduction is 'max'"),
        ({"rows": "none", "reduction": "sum"}, "rows='none' does not reduce: sum its result"),
        ({"rows": "none", "row_weights": MAPS}, "rows='none' does not use them: multiply"),
        ({"backend": "fast"}, "backend is 'fast': expected one of auto, cuda"),
        ({"backend": "cuda"}, "'cuda' cannot run divergence_forward: the tensors are on cpu"),
        ({"backend": "triton"}, "'triton' cannot run divergence_forward: the tensors are on cpu"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        feature_divergence(MAPS, MAPS, **settings)


@pytest.mark.parametrize("name", ["temperature", "eps"])
def test_a_setting_that_wants_a_gradient_is_refused(name):
    def loss(value):
        return feature_divergence(MAPS, MAPS, **{name: value})

    value = torch.tensor(0.5)
    assert loss(value) == loss(0.5) == loss(np.float32(0.5))
    with pytest.raises(TypeError, match=f"{name} is a tensor that requires a gradient"):
        loss(value.requires_grad_())
    with pytest.raises(TypeError, match=f"{name} is a tensor that requires a gradient"):
        torch.func.grad(loss)(value.detach())
    with pytest.raises(TypeError, match=f"{name} is a tensor that requires a gradient"):
        torch.func.jvp(loss, (value.detach(),), (torch.tensor(1.0),))
    for wrong in ("1", [], torch.ones(2)):
        with pytest.raises(TypeError, match=f"{name} is a .*: expected a number"):
            loss(wrong)


def test_maps_are_taken_as_users_hold_them():
    student, teacher = [torch.randn_like(x) for x in MAPS], [torch.randn_like(x) for x in MAPS]
    weights = [torch.rand(1, *x.shape[2:]) for x in MAPS]
    expected = js_distance(student, teacher, row_weights=weights)
    names = ("0", "pool")  # as torchvision's backbones have them

    def turned(maps):
        return dict(reversed(list(zip(names, maps, strict=True))))

    named = OrderedDict(zip(names, student, strict=True))
    for a, b, w in [
        (tuple(student), iter(teacher), weights),
        ((x for x in student), dict(zip(names, teacher, strict=True)), iter(weights)),
        (named, teacher, turned(weights)),
        (named, turned(teacher), weights),
    ]:
        assert js_distance(a, b, row_weights=w) == expected
    one = js_distance(student[0], teacher[0], row_weights=weights[0])
    assert one == js_distance(student[:1], teacher[:1], row_weights=weights[:1])
    assert lgd_loss(iter(student), iter(teacher)) == lgd_loss(student, teacher)
    assert "2 float32 tensors" in explain("js_distance", named)


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ([torch.ones(1, 2, 2)], TypeError, "student has 2 levels but row_weights has 1"),
        (
            [torch.ones(1, 4), torch.ones(1, 1, 1)],
            ValueError,
            r"row_weights\[0\] has shape \(1, 4\): expected \(1, 2, 2\)",
        ),
        (
            [torch.ones(1, 2, 2, requires_grad=True), torch.ones(1, 1, 1)],
            ValueError,
            r"row_weights\[0\] requires a gradient.*detach",
        ),
    ],
)
def test_bad_weights(weights, error, message):
    with pytest.raises(error, match=message):
        js_distance(MAPS, MAPS, row_weights=weights)


@pytest.mark.skipif(bool(dispatch.MISSING), reason=dispatch.MISSING)
@pytest.mark.parametrize("divergence", get_args(Measure)[:-1])
@pytest.mark.parametrize("normalize", get_args(Normalize))
def test_the_library_computes_what_is_defined_and_nothing_in_its_place(normalize, divergence):
    settings = number("normalize", normalize), number("divergence", divergence)
    if is_defined(normalize, divergence):
        assert torch.ops.sssd.divergence_planes(*settings) > 0
    else:
        with pytest.raises(ValueError, match="do not have this divergence"):
            torch.ops.sssd.divergence_planes(*settings)
        with pytest.raises(ValueError, match=f"divergence {divergence!r} compares"):
            feature_divergence(MAPS, MAPS, normalize=normalize, divergence=divergence)


def test_a_direct_call_with_maps_of_another_layout_is_refused():
    over_channels = numbers_of(over="channels")
    forward = torch.ops.sssd.divergence_forward
    dense = torch.zeros(2, 4, 3, 5)
    last = dense.to(memory_format=torch.channels_last)
    for fitting in ((dense, dense), (last, last)):
        forward(*([m] for m in fitting), [], *over_channels)
    strided = torch.zeros(2, 4, 3, 10)[..., ::2]
    for student, teacher in ((dense, last), (strided, strided), (dense.mT.contiguous().mT, dense)):
        with pytest.raises(RuntimeError, match="level 0: student and teacher must share a memory"):
            forward([student], [teacher], [], *over_channels)


def test_a_direct_call_with_saved_numbers_of_another_layout_is_refused():
    over_channels = numbers_of(over="channels")
    student, teacher = torch.randn(2, 4, 3, 5), torch.randn(2, 4, 3, 5)
    value, factors, saved = torch.ops.sssd.divergence_forward(
        [student], [teacher], [], *over_channels
    )
    needs = (True, True)
    for wrong in (saved.mT.contiguous().mT, saved[:1, :1].expand_as(saved)):
        with pytest.raises(RuntimeError, match="those of the forward pass"):
            torch.ops.sssd.divergence_backward(
                value, [student], [teacher], [], factors, wrong, *over_channels, *needs
            )
