"""What the divergence operator refuses, and that each message names the thing and the way out."""

import pytest
import torch

from sssd.ops import feature_divergence, js_distance

MAPS = [torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 1, 1)]


@pytest.mark.parametrize(
    ("student", "teacher", "error", "message"),
    [
        (MAPS[0], MAPS, TypeError, r"student is a tensor.*\[student\]"),
        ([], [], ValueError, "student is empty"),
        (MAPS, MAPS[:1], ValueError, "student has 2 levels but teacher has 1"),
        (MAPS, MAPS[::-1], ValueError, r"level 0: student has shape \(1, 4, 2, 2\) but teacher"),
        ([MAPS[0][0]], [MAPS[0][0]], ValueError, r"student\[0\] has shape \(4, 2, 2\): expected"),
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
        ({"beta": 1.0}, "beta is 1.0"),
        ({"eps": -1.0}, "eps is -1.0"),
        ({"root": "rows"}, "root is 'rows'"),
        ({"reduction": "max"}, "reduction is 'max'"),
        ({"backend": "fast"}, "backend is 'fast': expected one of auto, cuda"),
        ({"backend": "cuda"}, "'cuda' cannot run divergence_forward: the tensors are on cpu"),
        ({"backend": "triton"}, "'triton' cannot run divergence_forward: the tensors are on cpu"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        feature_divergence(MAPS, MAPS, **settings)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([torch.ones(1, 2, 2)], "row_weights must be a list of 2 tensors"),
        (
            [torch.ones(1, 4), torch.ones(1, 1, 1)],
            r"row_weights\[0\] has shape \(1, 4\): expected \(1, 2, 2\)",
        ),
        (
            [torch.ones(1, 2, 2, requires_grad=True), torch.ones(1, 1, 1)],
            r"row_weights\[0\] requires a gradient.*detach",
        ),
    ],
)
def test_bad_weights(weights, message):
    with pytest.raises(ValueError, match=message):
        js_distance(MAPS, MAPS, row_weights=weights)


def test_a_direct_call_with_maps_of_another_layout_is_refused():
    over_channels = (0, 1, 0, 1, 0, 0, False, 1.0, 0.5, 0.0)
    forward = torch.ops.sssd.divergence_forward
    dense = torch.zeros(2, 4, 3, 5)
    last = dense.to(memory_format=torch.channels_last)
    for fitting in ((dense, dense), (last, last)):
        forward(*([m] for m in fitting), [], *over_channels)
    strided = torch.zeros(2, 4, 3, 10)[..., ::2]
    for student, teacher in ((dense, last), (strided, strided), (dense.mT.contiguous().mT, dense)):
        with pytest.raises(RuntimeError, match="level 0: student and teacher must share a memory"):
            forward([student], [teacher], [], *over_channels)
