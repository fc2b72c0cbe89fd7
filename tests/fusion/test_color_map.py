"""LabelEnc's encoder: its widths, its first convolution against the whole colour map."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops.feature_pyramid_network import (
    FeaturePyramidNetwork,
    LastLevelMaxPool,
    LastLevelP6P7,
)

from sssd.fusion import ColorMapEncoder, pack_objects
from sssd.fusion.color_map import Bottleneck

IMAGE_SIZE = (64, 96)
NUM_CLASSES = 7


def pyramid(channels: list[int], width: int) -> FeaturePyramidNetwork:
    last = LastLevelMaxPool() if len(channels) == 4 else LastLevelP6P7(width, width)
    return FeaturePyramidNetwork(channels, width, last)


def targets() -> list[dict[str, Tensor]]:
    """Overlapping boxes of a class and of others, an image without boxes, one class alone."""
    boxes = [
        [[3.5, 4.0, 40.0, 50.25], [10.0, 20.0, 70.0, 60.0], [0.0, 0.0, 96.0, 64.0]],
        [],
        [[60.0, 8.0, 62.0, 12.0]],
    ]
    labels = [[2, 2, 6], [], [0]]
    return [
        {"boxes": torch.tensor(b).reshape(-1, 4), "labels": torch.tensor(c, dtype=torch.int64)}
        for b, c in zip(boxes, labels, strict=True)
    ]


def whole_color_map(strength: Tensor) -> Tensor:
    """(B, K, H, W) from the formula, pixel by pixel."""
    height, width = IMAGE_SIZE
    color_map = torch.zeros(3, NUM_CLASSES, height, width)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    row = 0
    for image, target in enumerate(targets()):
        for (x1, y1, x2, y2), label in zip(target["boxes"], target["labels"], strict=True):
            dx, dy = (x - (x1 + x2) / 2).abs() / (x2 - x1), (y - (y1 + y2) / 2).abs() / (y2 - y1)
            value = 1 - torch.maximum(dx, dy)
            value = value.where(value >= 0.5, 0.0) * strength[row]
            color_map[image, label] = torch.maximum(color_map[image, label], value)
            row += 1
    return color_map


@pytest.mark.parametrize("strength", [None, torch.tensor([0.25, 1.0, 0.5, 0.75])])
def test_only_the_shown_classes_are_convolved_and_that_is_the_whole(
    strength: Tensor | None,
) -> None:
    torch.manual_seed(0)
    encoder = ColorMapEncoder(NUM_CLASSES, pyramid([64, 128, 256], 32))
    found = encoder.encode_color_map(pack_objects(targets()), IMAGE_SIZE, strength)
    found.square().sum().backward()
    gradient = encoder.stem.weight.grad.clone()
    encoder.zero_grad()
    whole = whole_color_map(torch.ones(4) if strength is None else strength)
    expected = F.conv2d(whole, encoder.stem.weight, encoder.stem.bias, stride=2, padding=3)
    expected.square().sum().backward()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, encoder.stem.weight.grad, rtol=1e-4, atol=1e-2)
    assert gradient[:, [0, 2, 6]].abs().amin((0, 2, 3)).max() > 0
    assert gradient[:, [1, 3, 4, 5]].abs().max() == 0


def test_with_a_resnet_50_it_has_the_papers_widths() -> None:
    for channels in ([512, 1024, 2048], [256, 512, 1024, 2048]):
        encoder = ColorMapEncoder(80, pyramid(channels, 256))
        assert (encoder.stem.in_channels, encoder.stem.out_channels) == (80, 128)
        assert encoder.stem.kernel_size == (7, 7)
        assert encoder.stem.stride == (2, 2)
        blocks = [[block.expand.out_channels for block in stage] for stage in encoder.stages]
        assert blocks == [[256], [512, 512], [1024, 1024], [2048]]
        strides = [[block.spatial.stride[0] for block in stage] for stage in encoder.stages]
        assert strides == [[2], [2, 1], [2, 1], [2]]
        own = [p for n, p in encoder.named_parameters() if not n.startswith("pyramid.")]
        assert sum(p.numel() for p in own) == 9_910_272


def test_initial_weights_are_those_of_the_authors_code() -> None:
    """Variance x fan-in: PyTorch's default is 1/3, kaiming_uniform(a=1) is 1."""
    torch.manual_seed(0)
    kind = pyramid([512, 1024, 2048], 256)
    encoder = ColorMapEncoder(80, kind)

    def gain(conv: torch.nn.Conv2d) -> float:
        return conv.weight.var().item() * conv.weight[0].numel()

    assert gain(encoder.stem) == pytest.approx(1 / 3, rel=0.02)
    convs = [m for m in encoder.stages.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [gain(conv) for conv in convs] == pytest.approx([1.0] * len(convs), rel=0.05)
    for conv in (encoder.stem, *(conv for conv in convs if conv.bias is not None)):
        bound = conv.weight[0].numel() ** -0.5
        assert conv.bias.var().item() == pytest.approx(bound**2 / 3, rel=0.5)
    assert len([conv for conv in convs if conv.bias is None]) == 4, "the shortcuts"
    own, copied = (list(module.parameters()) for module in (encoder.pyramid, kind))
    assert [p.shape for p in own] == [p.shape for p in copied]
    assert not any(torch.equal(a, b) for a, b in zip(own, copied, strict=True) if a.ndim > 1)


def test_an_image_without_boxes_has_maps_too() -> None:
    torch.manual_seed(0)
    maps = ColorMapEncoder(NUM_CLASSES, pyramid([64, 128, 256], 32))(
        pack_objects(targets()[1:2]), IMAGE_SIZE
    )
    assert all(m.abs().max() > 0 for m in maps)


@pytest.mark.parametrize("channels", [[64, 128, 256], [32, 64, 128, 256]])
def test_maps_have_the_shapes_of_the_detectors_and_see_one_image(channels: list[int]) -> None:
    torch.manual_seed(0)
    kind = pyramid(channels, 32)
    encoder = ColorMapEncoder(NUM_CLASSES, kind)
    maps = encoder(pack_objects(targets()), IMAGE_SIZE)
    strides = [8, 16, 32, 64, 128] if len(channels) == 3 else [4, 8, 16, 32, 64]
    expected = [(3, 32, -(-64 // stride), -(-96 // stride)) for stride in strides]
    assert [tuple(m.shape) for m in maps] == expected
    alone = encoder(pack_objects(targets()[:1]), IMAGE_SIZE)
    for together, single in zip(maps, alone, strict=True):
        torch.testing.assert_close(together[:1], single, rtol=1e-4, atol=1e-4)
    kind.zero_grad()
    sum(m.sum() for m in maps).backward()
    assert all(p.grad is None for p in kind.parameters())  # the encoder's pyramid is its own
    assert all(p.grad is not None for p in encoder.parameters())


@pytest.mark.parametrize("channels", [4, 10, 20])
def test_a_strided_shortcut_has_the_gradients_of_a_strided_convolution(channels: int) -> None:
    """At the widths of small networks, in channels_last, where oneDNN's own ends the process."""
    block = Bottleneck(channels, 2 * channels, stride=2).to(memory_format=torch.channels_last)
    x = torch.randn(2, channels, 112, 112).to(memory_format=torch.channels_last).requires_grad_()
    weights = torch.randn(2, 2 * channels, 56, 56)
    own = torch.autograd.grad((block(x) * weights).sum(), [x, block.shortcut.weight])
    exact, y = copy.deepcopy(block).double(), x.detach().double().contiguous().requires_grad_()
    hidden = exact.expand(F.relu(exact.spatial(F.relu(exact.reduce(y)))))
    strided = F.relu(hidden + F.conv2d(y, exact.shortcut.weight.contiguous(), stride=2))
    expected = torch.autograd.grad((strided * weights).sum(), [y, exact.shortcut.weight])
    torch.testing.assert_close(own, expected, check_dtype=False, rtol=1e-4, atol=1e-3)
