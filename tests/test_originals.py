"""Our numbers against the authors' own code, so that none can drift from its original.

The constants were computed once by running, in float64 on the inputs of `wave`, the classes
`ChannelWiseDivergence` and `PKDLoss` of mmrazor (main), the bodies of `distill` in
megvii-research/LGD and of the distance in megvii-model/LabelEnc, `loss_sl2` of ultralytics 8.4.80
and 8.4.190 (the same), `loss_cosine` of its development copy 037e0482, `FeatureLoss` of yzd-v/FGD,
`_js_div_2d` of kornia 0.9.0 and `LigerFusedLinearJSDFunction.distillation_loss_fn` of liger-kernel
0.8.5. The teachers are written out afresh in tests/fusion/test_original_teachers.py.
"""

import doctest
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sssd import losses
from sssd.ops import feature_divergence, js_divergence, label_heatmap


def wave(*shape: int, phase: float) -> Tensor:
    steps = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(steps * 0.7 + phase).reshape(shape) * 2


STUDENT = [wave(2, 4, 3, 5, phase=1), wave(2, 4, 2, 2, phase=2)]
TEACHER = [wave(2, 4, 3, 5, phase=3) * 1.5, wave(2, 4, 2, 2, phase=4) + 0.5]
SCORES = [wave(2, 3, *m.shape[2:], phase=5 + i).sigmoid().amax(1) for i, m in enumerate(STUDENT)]
FIRST = STUDENT[:1], TEACHER[:1]


@pytest.mark.parametrize(
    ("original", "ours", "expected"),
    [
        ("CWD", lambda: losses.cwd_loss(STUDENT, TEACHER, temperature=1.0), 3.376675389152977),
        ("CWD, tau 4", lambda: losses.cwd_loss(STUDENT, TEACHER), 5.348366123564972),
        ("PKD", lambda: losses.pkd_loss(STUDENT, TEACHER), 2.407564795567027),
        ("LGD", lambda: losses.lgd_loss(STUDENT, TEACHER), 2.7801479828635265),
        ("LabelEnc", lambda: losses.labelenc_loss(STUDENT, TEACHER), 2.8492596650577133),
        (
            "Ultralytics",
            lambda: losses.ultralytics_loss(STUDENT, TEACHER, SCORES),
            14.71422721726279,
        ),
        (
            "cosine, which is summed over two levels there",
            lambda: 2 * losses.cosine_loss(STUDENT, TEACHER),
            2.7940474169767353,
        ),
        ("kornia", lambda: js_divergence(*FIRST, over="cells"), 0.4451199628978161),
        ("Liger", lambda: feature_divergence(*FIRST), 0.42168425380561236),
    ],
)
def test_losses(original: str, ours: object, expected: float) -> None:
    assert ours().item() == pytest.approx(expected, rel=1e-6)


def test_fgd_by_the_three_lines_of_the_docstring() -> None:
    """Mask and foreground of `FeatureLoss`, temperature 0.5; the second image is padded."""
    lines = doctest.DocTestParser().get_examples(losses.weighted_mse_loss.__doc__ or "")[-3:]
    given = {
        "torch": torch,
        "label_heatmap": label_heatmap,
        "boxes": torch.tensor([[3, 5, 20.5, 12], [0, 0, 31.9, 8], [10, 2, 12, 3]]),
        "image": torch.tensor([0, 0, 1]),
        "size": torch.tensor([[32.0, 24.0], [30.0, 20.0]]),
        "b": 2,
        "h": 3,
        "w": 5,
    }
    for line in lines:
        exec(line.source, given)
    first = [[1 / 12] * 5, [1 / 12] * 5, [1 / 15] * 5]
    second = [[0, 0.25, 0.25, 0, 0], [0, 0.25, 0.25, 0, 0], [0] * 5]
    torch.testing.assert_close(given["mask"], torch.tensor([first, second]))
    student, teacher = STUDENT[0], TEACHER[0]
    spatial = 15 * (teacher.abs().mean(1) / 0.5).flatten(1).softmax(1).view(2, 3, 5)
    channel = (4 * (teacher.abs().mean((2, 3)) / 0.5).softmax(1))[:, :, None, None].sqrt()
    foreground = losses.weighted_mse_loss(
        [student * channel], [teacher * channel], [given["mask"] * spatial / 2]
    )
    assert foreground.item() == pytest.approx(36.87541355214241, rel=1e-6)


LEVEL, IMAGE = (96, 80), (384, 320)
CENTERNET_BOXES = (  # in cells, an image of its own each
    (20.0, 20.0, 35.0, 90.0),  # 15 x 70, whose radius is exactly 7
    (3.0, 1.5, 9.25, 30.0),
    (60.0, 70.0, 90.0, 110.0),  # reaches out of the image, as does the next
    (-20.0, -3.0, 8.0, 2.5),
    (40.0, 40.0, 40.5, 40.5),
)


def centernet(box: tuple[float, ...]) -> np.ndarray:
    """`CTDetDataset.__getitem__`, `gaussian_radius`, `draw_umich_gaussian`, in formulas."""
    rows, columns = LEVEL
    x1, x2 = (min(max(x, 0), columns - 1) for x in box[::2])
    y1, y2 = (min(max(y, 0), rows - 1) for y in box[1::2])
    h, w, o = math.ceil(y2 - y1), math.ceil(x2 - x1), 0.7
    roots = (
        (h + w, 4 * (h * w * (1 - o) / (1 + o))),
        (2 * (h + w), 16 * (1 - o) * w * h),
        (-2 * o * (h + w), 16 * o * (o - 1) * w * h),
    )
    radius = int(min((b + math.sqrt(b * b - four_a_c)) / 2 for b, four_a_c in roots))
    column, row = int((x1 + x2) / 2), int((y1 + y2) / 2)
    y, x = np.ogrid[:rows, :columns]
    sigma = (2 * radius + 1) / 6
    drawn = np.exp(-((x - column) ** 2 + (y - row) ** 2) / (2 * sigma**2))
    return np.where((abs(x - column) <= radius) & (abs(y - row) <= radius), drawn, 0)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_centernet(backend: str) -> None:
    boxes = 4 * torch.tensor(CENTERNET_BOXES)
    limits = [IMAGE[1] - IMAGE[1] / LEVEL[1], IMAGE[0] - IMAGE[0] / LEVEL[0]]
    boxes = boxes.clamp(min=0).minimum(boxes.new_tensor(limits * 2))  # what the docstring says
    image = torch.arange(len(boxes))
    (found,) = label_heatmap(
        boxes, 0 * image, image, IMAGE, [LEVEL], len(boxes), 1,
        profile="gaussian_legacy", backend=backend,
    )  # fmt: skip
    assert (found[0, 0] > 0).any(1).sum() == 2 * 7 + 1
    expected = torch.tensor(np.stack([centernet(box) for box in CENTERNET_BOXES]))
    torch.testing.assert_close(found[:, 0].double(), expected, rtol=1e-6, atol=1e-7)
