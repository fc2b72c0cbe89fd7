"""Lambda follows a trainer's count and learning rate, wherever the part is saved and copied."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from sssd.distillation import SelfDistillation, Stepwise, TeacherDistillation


def test_lambda_rises_with_every_tenfold_fall_of_the_learning_rate() -> None:
    part = Stepwise({"value": 3.0, "step_factor": 2.0}, ())
    expected = [(1e-3, 3.0), (1e-2, 3.0), (1e-3, 6.0), (1e-4, 12.0), (1e-6, 12.0), (0.0, 12.0)]
    for step, (rate, value) in enumerate(expected):  # warm-up, peak, milestones, what is capped
        part.follow(step, rate)
        assert part.lambda_at(step) == pytest.approx(value, rel=1e-6)
    part.follow(0, 1e-2 / 10**0.5)  # half a fall of a smooth schedule
    assert part.lambda_at(0) == pytest.approx(3 * 2**0.5, rel=1e-6)
    inverse = Stepwise({"value": 1.0, "step_factor": 10.0}, ())
    inverse.follow(0, 0.4)
    inverse.follow(1, 0.1)
    assert inverse.lambda_at(1) == pytest.approx(4.0)


def test_milestones_and_explicit_steps_come_before_the_learning_rate() -> None:
    part = Stepwise({"value": 1.0, "step_factor": 2.0}, (10,))
    part.follow(5, 1.0)
    part.follow(6, 0.01)
    assert (part.lambda_at(6), part.lambda_at(10)) == (1.0, 2.0)
    explicit = Stepwise({"value": 1.0, "step_factor": 2.0, "steps": {3: 7.0}}, ())
    explicit.follow(0, 1.0)
    explicit.follow(3, 0.1)
    assert explicit.lambda_at(3) == 7.0


def test_the_parts_of_a_batch_share_the_trainers_step() -> None:
    part = SelfDistillation(3, 8)
    targets = [{"boxes": torch.tensor([[0.0, 0, 8, 8]]), "labels": torch.tensor([1])}]
    head = nn.Conv2d(8, 3, 1)
    part.follow(7)
    for _ in range(2):
        part([torch.randn(1, 8, 4, 4)], targets, (16, 16), lambda k: {"l": head(k[0]).mean()}, head)
        assert part.step == 7


def test_what_is_saved_and_copied_knows_the_peak() -> None:
    part = Stepwise({"step_factor": 2.0}, ())
    part.follow(0, 0.1)
    other = Stepwise({"step_factor": 2.0}, ())
    other.load_state_dict(part.state_dict())
    for resumed in (other, copy.deepcopy(part)):
        resumed.follow(1, 0.01)
        assert resumed.lambda_at(1) == pytest.approx(2.0, rel=1e-5)


def test_what_was_written_to_its_buffers_counts() -> None:
    """DistributedDataParallel writes the first process's to all others, without a state dict."""
    part = Stepwise({"value": 1.0, "step_factor": 2.0}, (10, 20))
    assert part._count(None) == 0
    part.step.copy_(torch.tensor(15))
    assert part._count(None) == 15
    assert part.lambda_at(15) == 2.0
    assert part._count(None) == 16


def test_a_factor_that_nothing_applies_is_told_once() -> None:
    part = Stepwise({"step_factor": 2.0}, ())
    with pytest.warns(UserWarning, match=r"step_factor 2 has no effect.*milestones"):
        part._count(None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        part._count(None)
        led = Stepwise({"step_factor": 2.0}, ())
        led.follow(0, 0.1)
        led._count(None)
    for rate in (None, 0.1):  # a trainer with its own count, which may be that of a resumed run
        counted = Stepwise({"step_factor": 2.0}, ())
        counted.follow(7)  # it may have no rate to tell before its first step
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            counted._count(None)
        counted.follow(8, rate)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            counted._count(None)
        assert [str(one.message)[:13] for one in told] == ["step_factor 2"] * (rate is None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for silent in (Stepwise({"step_factor": 2.0}, (5,)), Stepwise(1.0, ())):
            silent._count(None)


def test_milestones_of_any_order() -> None:
    assert Stepwise({"step_factor": 2.0}, (20, 10)).lambda_at(15) == 2.0


@pytest.mark.parametrize(
    ("coefficient", "told"),
    [
        ({"start": 9, "stop": 9}, "its stop at step 9 comes before its start"),
        (float("nan"), "coefficient: value is nan; it must be a finite number of 0 or more"),
        ({"value": 1.0, "steps": {5: float("inf")}}, "coefficient: steps is inf"),
        ({"value": 1.0, "steps": {1.5: 3.0}}, "steps has 1.5; a step is a whole number"),
        ({"value": 1.0, "stop": 0}, "its stop at step 0 comes before its start at step 0"),
        ({"start": -5}, "start has step -5; it must be 0 or more"),
    ],
)
def test_a_coefficient_that_means_nothing_is_refused(coefficient: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Stepwise(coefficient, ())


@pytest.mark.parametrize("value", [None, "4.7", True])
def test_a_coefficient_that_is_no_number_is_named(value: Any) -> None:
    with pytest.raises(TypeError, match=f"coefficient: value is {value!r}; it must be a number"):
        Stepwise({"value": value}, ())


def test_before_the_start_a_teacher_trains_the_projections_alone() -> None:
    passes = 0

    def pyramid(images: torch.Tensor) -> list[torch.Tensor]:
        nonlocal passes
        passes += 1
        return [images.repeat(1, 4, 1, 1)]

    for width, trains in ((8, True), (12, False)):
        passes = 0
        part = TeacherDistillation(
            [width], nn.Conv2d(3, 3, 1), [12], pyramid, coefficient={"start": 1}
        )
        student = torch.randn(2, width, 4, 4, requires_grad=True)
        images = torch.randn(2, 3, 4, 4)
        (loss,) = part([student], images).values()
        assert (passes, part.metrics["lambda"]) == (int(trains), 0.0)
        if trains:
            loss.backward()
            assert student.grad is None
            assert all(p.grad.any() for p in part.parameters())
        (loss,) = part([student], images).values()
        loss.backward()
        assert student.grad.any()


def test_a_teacher_draws_the_maps_behind_a_projection_and_stays_as_it_is() -> None:
    torch.manual_seed(0)
    student, teacher = nn.Conv2d(3, 4, 1), nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
    before = copy.deepcopy(teacher.state_dict())
    part = TeacherDistillation([4], teacher, [8], lambda x: [teacher(x)], "cwd", coefficient=3.0)
    images = torch.randn(2, 3, 8, 8)
    (loss,) = part([student(images)], images).values()
    torch.testing.assert_close(loss, 3 * part.metrics["distance"])
    loss.backward()
    assert student.weight.grad.abs().sum() > 0
    assert part.projections[0].weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not any("teacher" in name or "BatchNorm" in name for name in part.state_dict())
    with pytest.raises(RuntimeError, match="has no teacher"):
        copy.deepcopy(part)([student(images)], images)
    with pytest.raises(ValueError, match="loss is 'cdw': expected one of sssd, cwd"):
        TeacherDistillation([4], teacher, [8], lambda x: [teacher(x)], "cdw")
    with pytest.raises(ValueError, match="model has 2 maps and teacher 1"):
        TeacherDistillation([4, 4], teacher, [8], lambda x: [teacher(x)])


def test_levels_of_different_width_meet_in_one() -> None:
    torch.manual_seed(0)
    part = SelfDistillation(3, [4, 8])
    maps = [torch.randn(1, w, s, s, requires_grad=True) for w, s in ((4, 8), (8, 4))]
    heads = nn.ModuleList([nn.Conv2d(4, 3, 1), nn.Conv2d(8, 3, 1)])
    targets = [{"boxes": torch.tensor([[0.0, 0, 16, 16]]), "labels": torch.tensor([1])}]
    losses = part(
        maps,
        targets,
        (32, 32),
        lambda k: {"l": sum(head(m).square().mean() for head, m in zip(heads, k, strict=True))},
        heads,
    )
    sum(losses.values()).backward()
    assert all(m.grad.abs().sum() > 0 for m in maps)
    assert all(p.grad is not None for p in part.parameters())
