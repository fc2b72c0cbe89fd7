"""The generic parts that recipes for other frameworks are made of."""

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from sssd.integrations import SelfDistillation, Tap, boxes_in_pixels, split_by_image
from sssd.ops import js_distance


def maps() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 64, size, size, requires_grad=True) for size in (8, 4)]


TARGETS = [
    {"boxes": torch.tensor([[4.0, 4.0, 30.0, 30.0]]), "labels": torch.tensor([2])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
]


def test_the_distance_reaches_the_maps_and_not_the_teacher() -> None:
    distillation = SelfDistillation(3, 64)
    student = maps()
    losses = distillation(student, TARGETS, (64, 64), lambda k: {"loss_cls": k[0].square().mean()})
    assert sorted(losses) == ["loss_distillation", "teacher_loss_cls"]
    losses["loss_distillation"].backward()
    assert all(m.grad is not None and m.grad.abs().sum() > 0 for m in student)
    assert all(p.grad is None for p in distillation.fusion.parameters())


def test_maps_may_be_the_dict_of_a_backbone_and_labels_must_be_classes() -> None:
    distillation = SelfDistillation(3, 64)
    named = OrderedDict(zip(("0", "pool"), maps(), strict=True))
    losses = [
        distillation(given, TARGETS, (64, 64), lambda k: {"loss": k[1].mean()})
        for given in (named, maps())
    ]
    assert losses[0] == losses[1]
    with pytest.raises(ValueError, match=r"labels has values outside 0 \.\. 1 .* row 0"):
        SelfDistillation(2, 64)(maps(), TARGETS, (64, 64), lambda k: {})


def test_another_distance_and_a_schedule() -> None:
    torch.manual_seed(0)
    distillation = SelfDistillation(
        3, 64, coefficient=lambda step: 2.0 * step, distance=lambda s, t: torch.tensor(5.0)
    )
    values = [
        distillation(maps(), TARGETS, (64, 64), lambda k: {})["loss_distillation"].item()
        for _ in range(3)
    ]
    assert values == [0.0, 10.0, 20.0]


def test_another_adapter() -> None:
    seen: list[list[Tensor]] = []

    def distance(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        seen.append(student)
        return js_distance(student, teacher)

    distillation = SelfDistillation(3, 64, adapter=nn.Identity(), distance=distance)
    student = maps()
    distillation(student, TARGETS, (64, 64), lambda k: {})
    assert all(a is b for a, b in zip(seen[0], student, strict=True))


def test_targets_must_fit_the_batch() -> None:
    with pytest.raises(ValueError, match="targets: 1 for a batch of 2 images"):
        SelfDistillation(3, 64)(maps(), TARGETS[:1], (64, 64), lambda k: {})


def test_normalised_boxes_become_pixels() -> None:
    boxes = boxes_in_pixels(torch.tensor([[0.5, 0.25, 0.5, 0.5]]), (100, 200))
    assert boxes.tolist() == [[50.0, 0.0, 150.0, 50.0]]
    assert boxes_in_pixels(torch.zeros(0, 4), (8, 8)).shape == (0, 4)


def test_flat_ground_truth_is_split() -> None:
    boxes = torch.arange(12.0).view(3, 4)
    split = split_by_image(
        boxes, torch.tensor([[5.0], [6.0], [7.0]]), torch.tensor([2.0, 0.0, 2.0]), 4
    )
    assert [t["labels"].tolist() for t in split] == [[6], [], [5, 7], []]
    assert torch.equal(split[2]["boxes"], boxes[[0, 2]])
    assert split[1]["boxes"].shape == (0, 4)
    elsewhere = split_by_image(boxes, torch.tensor([5, 6, 7]), torch.tensor([-1, 1, 2]), 2)
    assert [t["labels"].tolist() for t in elsewhere] == [[], [6]]


def test_a_tap_captures_only_while_open() -> None:
    body = nn.Identity()
    tap = Tap(body, "body")
    body(torch.zeros(1))
    with pytest.raises(RuntimeError, match="tap on body captured 0"):
        tap.take()
    tap.open()
    body(torch.ones(1))
    assert tap.take().item() == 1
    with pytest.raises(RuntimeError, match="captured 0"):
        tap.take()
    tap.remove()
    tap.open()
    body(torch.ones(1))
    with pytest.raises(RuntimeError, match="captured 0"):
        tap.take()
