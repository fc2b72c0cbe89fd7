"""The fusion components: geometry, parameter counts, which object reaches which cell."""

import pytest
import torch
from torch import Tensor

from sssd.fusion import Adapter, PaintedFusion, RelationFusion, pack_objects
from sssd.fusion.layers import conv3x3, separable3x3
from sssd.fusion.objects import add_context, descriptors, paint_objects, pool_objects

IMAGE_SIZE = (64, 96)
SHAPES = [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
WIDTH, NUM_CLASSES = 32, 7


def targets_of(counts: list[int], seed: int = 0) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    targets = []
    for count in counts:
        corner = torch.rand(count, 2, generator=generator) * 40
        size = 8 + torch.rand(count, 2, generator=generator) * 16
        labels = torch.randint(NUM_CLASSES, (count,), generator=generator)
        targets.append({"boxes": torch.cat([corner, corner + size], dim=1), "labels": labels})
    return targets


def maps_of(batch_size: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch_size, WIDTH, *shape, generator=generator) for shape in SHAPES]


def fusions() -> list[tuple[str, torch.nn.Module]]:
    torch.manual_seed(0)
    return [
        ("relation", RelationFusion(NUM_CLASSES, WIDTH)),
        ("relation without context", RelationFusion(NUM_CLASSES, WIDTH, context=False)),
        ("painted", PaintedFusion(NUM_CLASSES, WIDTH)),
    ]


def test_fusion_and_adapter_have_the_published_numbers_of_parameters() -> None:
    fusion = RelationFusion(80, 256)
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    assert count(fusion) == 8_304_336
    assert count(fusion.encoder) - count(fusion.encoder.project) == 4_893_392
    assert count(fusion.encoder.transform_input) == 2_615_376
    assert count(fusion.encoder.transform_feature) == 1_853_376
    assert count(Adapter(256)) == 1_770_240
    assert count(Adapter(256, separable=True)) == 205_056


@pytest.mark.parametrize("width", [64, 256])
def test_separable_convolutions_start_with_the_gain_of_full_ones(width: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, width, 24, 24)
    full, separable = (conv(width)(x).std((0, 2, 3)).mean() for conv in (conv3x3, separable3x3))
    torch.testing.assert_close(separable, full, rtol=0.05, atol=0)


def test_objects_are_pooled_and_painted_in_boxes_clamped_to_the_image() -> None:
    targets = [{"boxes": torch.tensor([[-40.0, 16.0, 400.0, 39.0]]), "labels": torch.tensor([2])}]
    objects = pack_objects(targets)
    (canvas,) = paint_objects(torch.ones(1, 3), objects, IMAGE_SIZE, [torch.zeros(1, 3, 8, 12)])
    expected = torch.zeros(1, 3, 8, 12)
    expected[:, :, 2:5] = 1  # cells of 8 pixels, the last one's row included
    torch.testing.assert_close(canvas, expected)
    rows = torch.arange(8.0).reshape(1, 1, 8, 1).expand(1, 3, 8, 12).contiguous()
    pooled = pool_objects([rows], objects, IMAGE_SIZE)
    torch.testing.assert_close(pooled, torch.full((1, 1, 3), 3.0))


def test_oriented_boxes_are_refused() -> None:
    oriented = {"boxes": torch.rand(4, 5), "labels": torch.zeros(4, dtype=torch.int64)}
    with pytest.raises(ValueError, match=r"boxes of image 1 have shape \(4, 5\)"):
        pack_objects([*targets_of([1]), oriented])


def test_descriptors_are_places_and_classes_between_minus_one_and_one() -> None:
    targets = [{"boxes": torch.tensor([[-4.0, 16.0, 48.0, 80.0]]), "labels": torch.tensor([2])}]
    (row,) = descriptors(pack_objects(targets), NUM_CLASSES, IMAGE_SIZE)
    places = torch.tensor([0.0, 16 / 64, 48 / 96, 63 / 64])  # clamped to [0, W-1] x [0, H-1]
    classes = torch.eye(NUM_CLASSES)[2]
    torch.testing.assert_close(row, 2 * torch.cat([places, classes]) - 1)


@pytest.mark.parametrize("context", [True, False])
def test_an_image_without_boxes_gets_a_row_of_one_pixel_and_others_a_context_row(
    context: bool,
) -> None:
    rows = add_context(pack_objects(targets_of([2, 0, 1])), IMAGE_SIZE, context=context)
    expected = [0, 0, 2, 1, 0, 2] if context else [0, 0, 2, 1]
    assert rows.image_index.tolist() == expected
    assert rows.counts == ([3, 1, 2] if context else [2, 1, 1])
    fake = rows.boxes[rows.image_index == 1]
    assert fake.tolist() == [[0, 0, 1, 1]]
    assert (rows.labels[3:] == -1).all()
    for image, count in enumerate(rows.counts):  # every slot once
        assert sorted(rows.slot[rows.image_index == image].tolist()) == list(range(count))


@pytest.mark.parametrize(("name", "fusion"), fusions())
def test_maps_keep_their_shapes_and_every_parameter_is_trained(
    name: str, fusion: torch.nn.Module
) -> None:
    for counts in ([3, 0], [0, 0]):
        fusion.zero_grad()
        maps = fusion(maps_of(2), pack_objects(targets_of(counts)), IMAGE_SIZE)
        assert [tuple(m.shape[2:]) for m in maps] == SHAPES
        assert all(m.isfinite().all() for m in maps)
        sum(m.square().sum() for m in maps).backward()
        assert [n for n, p in fusion.named_parameters() if p.grad is None] == []
        if any(counts):
            assert [n for n, p in fusion.named_parameters() if not p.grad.any()] == []


@pytest.mark.parametrize(("name", "fusion"), fusions())
def test_images_of_a_batch_do_not_see_one_another(name: str, fusion: torch.nn.Module) -> None:
    maps, targets = maps_of(2), targets_of([2, 4])
    with torch.no_grad():
        together = fusion(maps, pack_objects(targets), IMAGE_SIZE)
        alone = fusion([m[:1] for m in maps], pack_objects(targets[:1]), IMAGE_SIZE)
    for pair, single in zip(together, alone, strict=True):
        torch.testing.assert_close(pair[:1], single, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "fusion"), fusions())
def test_the_order_of_objects_does_not_matter(name: str, fusion: torch.nn.Module) -> None:
    (target,) = targets_of([5])
    turned = {key: value.flip(0) for key, value in target.items()}
    with torch.no_grad():
        there = fusion(maps_of(1), pack_objects([target]), IMAGE_SIZE)
        back = fusion(maps_of(1), pack_objects([turned]), IMAGE_SIZE)
    for a, b in zip(there, back, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "fusion"), fusions())
def test_labels_reach_the_maps(name: str, fusion: torch.nn.Module) -> None:
    (target,) = targets_of([2])
    other = {**target, "labels": (target["labels"] + 1) % NUM_CLASSES}
    with torch.no_grad():
        one = fusion(maps_of(1), pack_objects([target]), IMAGE_SIZE)[0]
        two = fusion(maps_of(1), pack_objects([other]), IMAGE_SIZE)[0]
    assert (one - two).abs().max() > 0.05


@pytest.mark.parametrize("detach", [False, True])
def test_detach_keeps_gradients_from_the_maps(detach: bool) -> None:
    maps = [m.requires_grad_() for m in maps_of(1)]
    fused = RelationFusion(NUM_CLASSES, WIDTH, detach=detach)(
        maps, pack_objects(targets_of([2])), IMAGE_SIZE
    )
    sum(m.square().sum() for m in fused).backward()
    assert all((m.grad is None) == detach for m in maps)
