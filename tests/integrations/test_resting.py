"""An optimizer leaves alone what no loss has trained, whoever made the optimizer."""

import pickle
import warnings

import pytest
import torch
from torch import Tensor, nn

from sssd.distillation import SelfDistillation
from sssd.fusion import PaintedFusion
from sssd.integrations import attach, detach, resting
from tests.small import images_and_targets
from tests.tiny import WIDTH, tiny_detector

CLASSES = 6


def build() -> nn.Module:
    return tiny_detector("fcos", CLASSES).model.train()


def losses_of(model: nn.Module) -> dict[str, Tensor]:
    return model(*images_and_targets())


def moved(model: nn.Module, part: nn.Module, steps: int) -> list[bool]:
    """Whether each step of training moves a part."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    seen = []
    for _ in range(steps):
        before = [p.detach().clone() for p in part.parameters()]
        optimizer.zero_grad()
        sum(losses_of(model).values()).backward()
        optimizer.step()
        seen.append(not all(map(torch.equal, before, part.parameters())))
    return seen


def test_an_optimizer_leaves_alone_what_rests() -> None:
    """As sssd's own training does: zero gradients would move it by momentum and weight decay."""
    model, other = build(), build()
    fusion = attach(model, teacher_every=2, coefficient={"value": 1.0, "stop": 4}).fusion
    attach(other)
    assert moved(model, fusion, 6) == [False, True, False, True, False, False]
    pickled = pickle.loads(pickle.dumps(model))
    assert moved(pickled, pickled.distillation.fusion, 1) == [False]
    assert moved(other, other.distillation.fusion, 1) == [True]
    detach(other)
    assert moved(other, fusion, 1) == [False]


def test_an_optimizer_that_does_not_train_the_part_is_told_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resting, "PATIENCE", 2)
    model = build()
    early = torch.optim.SGD(model.parameters(), lr=0.0)
    attach(model)

    def train(*optimizers: torch.optim.Optimizer) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                sum(losses_of(model).values()).backward()
                for optimizer in optimizers:
                    optimizer.step()
        return [str(one.message) for one in caught if "sssd" in str(one.message)]

    (message,) = train(early)
    assert "make the optimizer after attach" in message
    assert train(early) == []
    detach(model)
    part = attach(model)
    assert train(early, torch.optim.SGD(part.parameters(), lr=0.0)) == []
    detach(model)
    attach(model).requires_grad_(False)
    assert train(early) == []


def test_an_optimizer_with_a_closure_leaves_it_alone_too() -> None:
    model = build()
    fusion = attach(model, teacher_every=2).fusion
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = sum(losses_of(model).values())
        loss.backward()
        return loss

    seen = []
    for words in ({"closure": closure}, {}) * 2:
        before = [p.detach().clone() for p in fusion.parameters()]
        loss = optimizer.step(**words) if words else optimizer.step(closure)
        assert loss.isfinite()
        seen.append(not all(map(torch.equal, before, fusion.parameters())))
    assert seen == [False, True, False, True]


def test_where_widths_differ_what_only_the_head_trains_rests_with_it() -> None:
    """`expand`, which the distance does not see: gradients of zero moved it by weight decay."""
    part = SelfDistillation(CLASSES, [8, 16], coefficient=1.0, teacher_every=2)
    reduce, expand = part.projection.reduce, part.projection.expand
    rests = [[x in part.resting(step) for x in (reduce, expand)] for step in (0, 1)]
    assert rests == [[False, True], [False, False]]


def test_what_a_part_shares_with_the_model_and_what_others_train_does_not_rest() -> None:
    class OfTheHead(nn.Module):
        def __init__(self, head: nn.Module) -> None:
            super().__init__()
            self.head = head

        def forward(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
            return self.head.conv[0](student[0]).square().mean()

    model = build()
    head = model.head.classification_head
    part = attach(model, distance=OfTheHead(head), coefficient={"value": 1.0, "stop": 1})
    assert moved(model, part.adapter, 2) == [True, False]
    assert moved(model, head, 1) == [True]
    model = build()
    fusion = PaintedFusion(CLASSES, WIDTH)
    assert attach(model, fusion=fusion, teacher_every=0).resting(0) == []


def test_what_one_part_of_an_accumulated_batch_trains_does_not_rest() -> None:
    model = build()
    fusion = attach(model, teacher_every=2).fusion
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    before = [p.detach().clone() for p in fusion.parameters()]
    for _ in range(3):  # the second one is taught
        sum(losses_of(model).values()).backward()
    optimizer.step()
    assert not any(map(torch.equal, before, fusion.parameters()))


def test_each_parameter_may_have_an_optimizer_of_its_own() -> None:
    """As torch's recipe of steps within the backward pass makes them."""
    model = build()
    fusion = attach(model, teacher_every=2).fusion
    each = {p: torch.optim.AdamW([p], lr=1e-4) for p in model.parameters()}

    def step(parameter: nn.Parameter) -> None:
        each[parameter].step()
        each[parameter].zero_grad()

    for parameter in each:
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(step)
    moved = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # all of them train the model, and some the part
        for _ in range(2):
            before = [p.detach().clone() for p in fusion.parameters()]
            sum(losses_of(model).values()).backward()
            moved.append(not all(map(torch.equal, before, fusion.parameters())))
    assert moved == [False, True]
