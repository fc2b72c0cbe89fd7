"""The implicit teachers, written afresh from the authors' code in loops over images and objects.

LGD: `DynamicTeacher`, `LabelEncoder`, `STN` of megvii-research/LGD. LabelEnc: `box_encode` and
`LabelEncodingFunction` of megvii-model/LabelEnc. Both were held to that code itself once.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

from sssd.fusion import ColorMapEncoder, RelationFusion, pack_objects

IMAGE_SIZE = H, W = 64, 96
WIDTH, NUM_CLASSES = 64, 5
BOXES = (
    [[5.5, 3.25, 61.75, 40.5], [30.25, 20.5, 90.0, 60.75], [70.5, 1.5, 130.0, 9.0]],
    [],
    [[10.25, 11.5, 43.0, 57.0]],
)
LABELS = ([1, 4, 1], [], [0])


def targets() -> list[dict[str, Tensor]]:
    return [
        {"boxes": torch.tensor(b).reshape(-1, 4), "labels": torch.tensor(c, dtype=torch.int64)}
        for b, c in zip(BOXES, LABELS, strict=True)
    ]


def layer_norm_relu(x: Tensor) -> Tensor:
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, correction=0)
    return ((x - mean) / (variance + 1e-5).sqrt()).clamp(min=0)


def group_norm(x: Tensor) -> Tensor:
    return (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()


def transformed(net: nn.Module, rows: Tensor) -> Tensor:
    out = []
    for row in rows:
        hidden = row
        for layer in net.layers:
            hidden = layer_norm_relu(layer(hidden))
        out.append(row @ net.matrix(hidden).view(len(row), len(row)))
    return torch.stack(out)


def attended(attention: nn.MultiheadAttention, queries: Tensor, keys: Tensor) -> Tensor:
    weights = [w.T for w in attention.in_proj_weight.chunk(3)]
    projected = [
        (x @ w + b).view(len(x), 8, -1).transpose(0, 1)  # heads, rows, width of a head
        for x, w, b in zip(
            (queries, keys, keys), weights, attention.in_proj_bias.chunk(3), strict=True
        )
    ]
    q, k, v = projected
    shares = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
    return attention.out_proj((shares @ v).transpose(0, 1).reshape(queries.shape))


def lgd(fusion: RelationFusion, maps: list[Tensor]) -> list[Tensor]:
    """K_e, image by image."""
    enhanced: list[list[Tensor]] = [[] for _ in maps]
    for image, (boxes, labels) in enumerate(zip(BOXES, LABELS, strict=True)):
        rows = torch.tensor(boxes or [[0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
        classes = torch.zeros(len(rows), NUM_CLASSES, dtype=torch.float64)
        classes[range(len(labels)), labels] = 1
        if fusion.context and boxes:
            rows = torch.cat([rows, rows.new_tensor([[0, 0, W, H]])])
            classes = torch.cat([classes, classes.new_zeros(1, NUM_CLASSES)])
        rows = rows.clamp(min=0).minimum(rows.new_tensor([W - 1, H - 1] * 2))
        descriptors = 2 * torch.cat([rows / rows.new_tensor([W, H, W, H]), classes], 1) - 1

        net = fusion.encoder
        local = layer_norm_relu(net.local(transformed(net.transform_input, descriptors)))
        local = transformed(net.transform_feature, local)
        best = layer_norm_relu(net.shared(layer_norm_relu(net.hidden(local)))).amax(0)
        merged = net.merge(torch.cat([local, best.expand(len(rows), -1)], 1))
        embedded = layer_norm_relu(net.project(layer_norm_relu(merged)))

        for level, batch in enumerate(maps):
            k = batch[image : image + 1]
            h, w = k.shape[2:]
            seen = group_norm(fusion.appearance(k)).clamp(min=0)[0]
            cells = rows * rows.new_tensor([w / W, h / H] * 2)
            y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
            masks = torch.stack([
                ((x - (x1 + x2) / 2).abs() / (x2 - x1) <= 0.5)
                & ((y - (y1 + y2) / 2).abs() / (y2 - y1) <= 0.5)
                for x1, y1, x2, y2 in cells.tolist()
            ]).double()  # fmt: skip
            looks = torch.einsum("thw,chw->tc", masks, seen)
            looks = looks / masks.sum((1, 2)).clamp(min=1)[:, None]
            answers = attended(fusion.attention, looks, embedded)
            local_rows = len(rows) - fusion.context
            values = fusion.object_values(answers[:local_rows])
            hidden = fusion.painted(torch.einsum("tc,thw->chw", values, masks[:local_rows])[None])
            if fusion.context_values is not None:
                hidden = hidden + fusion.context_values(answers[-1])[:, None, None]
            hidden = hidden.clamp(min=0)
            for place, layer in enumerate(fusion.mapper):
                hidden = group_norm(layer(hidden))
                hidden = hidden.clamp(min=0) if place < 2 else hidden
            enhanced[level].append(hidden)
    return [torch.cat(images) for images in enhanced]


@pytest.mark.parametrize("context", [True, False])
def test_lgd(context: bool) -> None:
    torch.manual_seed(0)
    fusion = RelationFusion(NUM_CLASSES, WIDTH, context=context)
    maps = [torch.randn(3, WIDTH, s, s * 3 // 2) for s in (8, 4, 2)]
    with torch.no_grad():
        ours = fusion(maps, pack_objects(targets()), IMAGE_SIZE)
        expected = lgd(fusion.double(), [m.double() for m in maps])
    for found, level in zip(ours, expected, strict=True):
        torch.testing.assert_close(found.double(), level, rtol=1e-3, atol=1e-3)


def labelenc(encoder: ColorMapEncoder) -> list[Tensor]:
    """Colour map, encoder and pyramid."""
    color = torch.zeros(3, NUM_CLASSES, H, W, dtype=torch.float64)
    y, x = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    for image, (boxes, labels) in enumerate(zip(BOXES, LABELS, strict=True)):
        for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True):
            dx, dy = (x - (x1 + x2) / 2).abs() / (x2 - x1), (y - (y1 + y2) / 2).abs() / (y2 - y1)
            value = 1 - torch.maximum(dx, dy)
            color[image, label] = torch.maximum(color[image, label], value * (value >= 0.5))
    hidden = F.conv2d(color, encoder.stem.weight, encoder.stem.bias, stride=2, padding=3)
    found = []
    for place, (stage, blocks) in enumerate(zip(encoder.stages, (1, 2, 2, 1), strict=True)):
        for block, stride in zip(stage, (2, 1)[:blocks], strict=True):
            inner = block.reduce(hidden).clamp(min=0)
            kernel = block.spatial
            inner = F.conv2d(inner, kernel.weight, kernel.bias, stride=stride, padding=1)
            inner = block.expand(inner.clamp(min=0))
            if stride == 2:
                hidden = F.conv2d(hidden, block.shortcut.weight, stride=2)
            hidden = (inner + hidden).clamp(min=0)
        found += [hidden] if place else []
    pyramid = encoder.pyramid
    top = pyramid.inner_blocks[2](found[2])
    levels = [pyramid.layer_blocks[2](top)]
    for place in (1, 0):
        side = pyramid.inner_blocks[place](found[place])
        top = side + F.interpolate(top, size=side.shape[2:], mode="nearest")
        levels.insert(0, pyramid.layer_blocks[place](top))
    p6 = pyramid.extra_blocks.p6(found[2])
    return [*levels, p6, pyramid.extra_blocks.p7(p6.clamp(min=0))]


def test_labelenc() -> None:
    torch.manual_seed(0)
    channels = [64, 128, 256]
    encoder = ColorMapEncoder(
        NUM_CLASSES, FeaturePyramidNetwork(channels, 32, LastLevelP6P7(256, 32))
    )
    with torch.no_grad():
        ours = encoder(pack_objects(targets()), IMAGE_SIZE)
        expected = labelenc(encoder.double())
    for found, level in zip(ours, expected, strict=True):
        torch.testing.assert_close(found.double(), level, rtol=1e-3, atol=1e-5)
