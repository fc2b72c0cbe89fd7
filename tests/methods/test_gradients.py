"""Watched gradients, and parameters that are in the graph though nothing trains them."""

import copy
from typing import Any

import pytest
import torch

from sssd.distillation import zero_for
from sssd.methods import KINDS, FusionConfig, LGDConfig, Method, build_method
from sssd.methods.gradients import GradientShares, without_gradient
from sssd.schedules import CoefficientConfig, ScheduleConfig
from tests.small import NUM_CLASSES, images_and_targets
from tests.tiny import tiny_detector

SCHEDULE = ScheduleConfig(iterations=10, milestones=(6,), warmup=0)


def build(**settings: object) -> Method:
    detector = tiny_detector(classes=NUM_CLASSES)
    return build_method(detector, LGDConfig(**settings), SCHEDULE).train()


def backward(method: Method, iteration: int) -> dict[str, float]:
    method.zero_grad()
    losses, metrics = method(*images_and_targets(), iteration)
    sum(losses.values()).backward()
    return {name: float(value) for name, value in metrics.items()}


def test_norms_are_those_of_separate_backward_passes() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 3, 2, 2).requires_grad_()]
    losses = {
        "one": lambda m: (m[0].square() * 3).sum() + m[1].sum(),
        "two": lambda m: m[0].sin().sum(),
    }
    shares = GradientShares(("one", "two"), maps)
    sum(loss(shares.watch(kind, maps)) for kind, loss in losses.items()).backward()
    metrics = shares.metrics()
    for kind, loss in losses.items():
        for level, gradient in enumerate(
            torch.autograd.grad(loss(maps), maps, allow_unused=True, materialize_grads=True)
        ):
            torch.testing.assert_close(metrics[f"gradient/{kind}/level{level}"], gradient.norm())
    one, two = (metrics[f"gradient/{kind}/level0"] for kind in ("one", "two"))
    torch.testing.assert_close(metrics["gradient_share/two/level0"], two / (one + two))
    assert metrics["gradient_share/two/level1"] == 0


def test_shares_of_a_step_follow_the_start_of_distillation_and_lambda() -> None:
    built = build(coefficient=CoefficientConfig(value=1.0, start=2))
    before = backward(built, 1)
    after = backward(built, 2)
    built.distillation.coefficient = CoefficientConfig(value=3.0)
    tripled = backward(built, 2)
    for level in range(5):
        for kind in ("detection", "teacher"):
            assert before[f"gradient/{kind}/level{level}"] > 0
        assert before[f"gradient_share/distillation/level{level}"] == 0
    shares = [after[f"gradient_share/distillation/level{level}"] for level in range(5)]
    assert all(0 <= share < 1 for share in shares)
    assert max(shares) > 0
    once, thrice = (m["gradient/distillation/level0"] for m in (after, tripled))
    assert thrice == pytest.approx(3 * once, rel=1e-4)


def test_zero_for_gives_zeros_even_where_weights_are_not_finite() -> None:
    layer = torch.nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight[0, 0] = float("inf")
    layer.bias.requires_grad_(False)
    (zero_for(layer, like=layer.weight) * float("nan")).backward()
    assert layer.weight.grad.tolist() == [[0.0] * 3] * 2
    assert layer.bias.grad is None
    layer.requires_grad_(False)
    assert zero_for(layer, like=layer.weight) == 0
    nothing = zero_for(torch.nn.Identity(), max, like=torch.empty(2, device="meta"))
    assert nothing.device.type == "meta"  # else a loss on a GPU cannot be joined with it


@pytest.mark.parametrize("kind", [list, tuple, lambda maps: maps[0], lambda maps: {"0": maps[0]}])
def test_a_backbone_of_any_output_is_kept_from_gradients(kind: Any) -> None:
    """The protocol says nothing of what a detector's backbone returns."""

    class Body(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 2, 1)

        def forward(self, x: torch.Tensor) -> Any:
            return kind([self.conv(x), self.conv(x)])

    body = Body()
    with without_gradient(body):
        given = body(torch.ones(1, 3, 2, 2))
    assert type(given) is type(kind([torch.ones(())]))
    first = given["0"] if isinstance(given, dict) else given[0]
    first.sum().backward()
    assert (body.conv.weight.grad == 0).all()


@pytest.mark.parametrize("fusion", ["relation", "painted"])
def test_every_iteration_gives_the_same_parameters_a_gradient(fusion: str) -> None:
    built = build(
        coefficient=CoefficientConfig(start=2, stop=5),
        fusion=KINDS[FusionConfig][fusion](),
        teacher_every=3,
        frozen_backbone=4,
    )
    trained = {n for n, p in built.named_parameters() if p.requires_grad}
    for iteration in range(7):
        backward(built, iteration)
        assert {n for n, p in built.named_parameters() if p.grad is not None} == trained
        teaches = any(p.grad.abs().sum() > 0 for p in built.distillation.fusion.parameters())
        assert teaches == (iteration == 2), "every third, until the stop"
        moves = any(p.grad.abs().sum() > 0 for p in built.detector.backbone.parameters())
        assert moves == (iteration >= 4)


def test_a_frozen_backbone_gives_the_same_losses_and_leaves_no_hook() -> None:
    frozen, free = build(frozen_backbone=1), build()
    free.load_state_dict(frozen.state_dict())
    first, second = (method(*images_and_targets(), 0).losses for method in (frozen, free))
    for name, loss in first.items():
        torch.testing.assert_close(loss, second[name], rtol=0, atol=0)
    assert len(frozen.detector.backbone._forward_hooks) == 0
    copied = copy.deepcopy(frozen.detector.eval())
    assert len(copied.backbone._forward_hooks) == 0


def test_coefficient_zero_freezes_nothing() -> None:
    off = build(coefficient=CoefficientConfig(value=0.0), frozen_backbone=5)
    assert off.resting(0) == []
    backward(off, 0)
    assert any(p.grad.abs().sum() > 0 for p in off.detector.backbone.parameters())
