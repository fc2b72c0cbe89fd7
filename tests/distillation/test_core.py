"""Self-distillation as any trainer uses it."""

import copy
import io
import pickle
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sssd.distillation import SelfDistillation, Stepwise, TeacherDistillation
from sssd.fusion import RelationFusion, pack_objects
from sssd.fusion.objects import descriptors
from sssd.losses import SSSDLoss
from sssd.ops import js_distance
from sssd.schedules import CoefficientConfig


def maps() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 64, size, size, requires_grad=True) for size in (8, 4)]


TARGETS = [
    {"boxes": torch.tensor([[4.0, 4.0, 30.0, 30.0]]), "labels": torch.tensor([2])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
]


def step(
    part: SelfDistillation, given: Any = None, head: Any = lambda k: {}, **options: Any
) -> dict[str, Tensor]:
    """Losses of a step; the head is a function, without state."""
    given = maps() if given is None else given
    return part(given, TARGETS, (64, 64), head, nn.Identity(), **options)


def test_the_distance_reaches_the_maps_and_not_the_teacher() -> None:
    distillation = SelfDistillation(3, 64)
    student = maps()
    losses = step(distillation, student, lambda k: {"loss_cls": k[0].square().mean()})
    assert sorted(losses) == ["loss_distillation", "teacher_loss_cls"]
    losses["loss_distillation"].backward()
    assert all(m.grad is not None and m.grad.abs().sum() > 0 for m in student)
    assert all(p.grad is None for p in distillation.fusion.parameters())


def test_maps_may_be_the_dict_of_a_backbone_and_labels_must_be_classes() -> None:
    distillation = SelfDistillation(3, 64)
    named = OrderedDict(zip(("0", "pool"), maps(), strict=True))
    losses = [
        step(distillation, given, lambda k: {"loss": k[1].mean()}) for given in (named, maps())
    ]
    assert losses[0] == losses[1]
    with pytest.raises(ValueError, match=r"labels has values outside 0 \.\. 1 .* row 0"):
        step(SelfDistillation(2, 64))


@pytest.mark.parametrize("of", ["itself", "teacher"])
def test_a_compiled_step_is_not_compiled_anew_as_lambda_and_the_count_move(of: str) -> None:
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    coefficient = {"value": 1.0, "steps": {4: 2.0, 8: 4.0}}
    part: Stepwise = SelfDistillation(3, 64, coefficient=coefficient)
    if of == "teacher":
        part = TeacherDistillation(
            [64, 64], nn.Linear(1, 1), [64, 64], lambda _: maps(), coefficient=coefficient
        )
    counter = CompileCounter()

    def train(given: list[Tensor], images: Tensor) -> Tensor:
        given = [m * 2 for m in given]  # the rest of the step is compiled
        if of == "teacher":
            losses = part(given, images)
        else:
            losses = part(given, TARGETS, (64, 64), lambda k: {}, nn.Identity())
        return torch.stack([loss.float() for loss in losses.values()]).sum() + given[0].sum()

    compiled = torch.compile(train, backend=counter)
    images, graphs = torch.zeros(2, 3, 64, 64), []
    for _ in range(12):
        found = compiled(maps(), images)
        graphs.append(counter.frame_count)
    assert graphs[-1] == graphs[1] > 0
    assert int(part.step) == 12
    part.follow(11)
    assert found.item() == pytest.approx(train(maps(), images).item(), rel=1e-6)


STEPWISE = {"value": 2.0, "steps": {"2": 4.0}, "start": 1, "stop": 4}  # as JSON holds it


def one(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """A distance of 1: the loss is lambda."""
    return torch.ones(()) + 0 * student[0].sum()


def lambdas(part: SelfDistillation, steps: int) -> list[float]:
    return [step(part)["loss_distillation"].item() for _ in range(steps)]


def test_lambda_follows_the_steps_and_starts_and_stops() -> None:
    part = SelfDistillation(3, 64, coefficient=STEPWISE, distance=one)
    reaches, shown = [], []
    for _ in range(5):
        student = maps()
        step(part, student)["loss_distillation"].backward()
        reaches.append(any(m.grad is not None for m in student))
        shown.append(part.metrics["lambda"])
    assert reaches == [False, True, True, True, False]
    assert shown == [0.0, 2.0, 4.0, 4.0, 0.0]
    assert part.coefficient == CoefficientConfig(value=2.0, steps={2: 4.0}, start=1, stop=4)
    rule = CoefficientConfig(value=1.0, step_factor=3.0)
    by_rule = SelfDistillation(3, 64, coefficient=rule, milestones=[1, 2], distance=one)
    assert lambdas(by_rule, 3) == [1.0, 3.0, 9.0]


def test_after_the_stop_there_is_no_second_pass_and_every_parameter_has_a_gradient() -> None:
    part = SelfDistillation(3, 64, coefficient={"value": 1.0, "stop": 1})
    losses = step(part, head=lambda k: pytest.fail("the head ran"), step=1)
    assert losses.keys() == {"loss_distillation"}
    losses["loss_distillation"].backward()
    assert all(p.grad is not None and not p.grad.any() for p in part.parameters())
    assert part.resting(1) == [part.fusion, part.adapter]


def test_a_head_may_write_into_its_list_and_not_into_its_maps() -> None:
    """What the distance compares afterwards is K_e, not what a head has made of it."""
    convolve = nn.Conv2d(64, 64, 1)

    def own_list(enhanced: list[Tensor]) -> dict[str, Tensor]:
        for level, m in enumerate(enhanced):
            enhanced[level] = convolve(m)
        return {"loss": enhanced.pop().mean()}

    drawn = []
    for head in (own_list, lambda k: {"loss": convolve(k[1]).mean()}):
        torch.manual_seed(0)
        drawn.append(step(SelfDistillation(3, 64), head=head)["loss_distillation"])
    assert torch.equal(*drawn)
    with pytest.raises(RuntimeError, match=r"wrote into level 0 of K_e.*ReLU\(inplace=True\)"):
        step(SelfDistillation(3, 64), head=lambda k: {"loss": k[0].relu_().mean()})


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"teacher_every": -1}, "teacher_every is -1; it must be a whole number of 0"),
        ({"teacher_every": 1.5}, r"teacher_every is 1\.5; it must be a whole number of 0"),
        ({"teacher_every": 0}, "teacher_every is 0, so nothing would train the fusion"),
        ({"milestones": [-3]}, r"milestones is \[-3\]: none may be below 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        SelfDistillation(3, 64, **settings)


def test_what_is_no_function_or_no_batch_is_refused() -> None:
    with pytest.raises(TypeError, match="distance is 'cwd': expected a function or module"):
        SelfDistillation(3, 64, distance="cwd")
    with pytest.raises(TypeError, match=r"distance is .*; SSSDLoss\(\) makes one"):
        SelfDistillation(3, 64, distance=SSSDLoss)
    with pytest.raises(ValueError, match="maps is empty"):
        SelfDistillation(3, 64)([], [], (64, 64), lambda k: {}, nn.Identity())
    empty = [torch.zeros(0, 64, 8, 8)]
    with pytest.raises(ValueError, match="targets: 0 for a batch of 0 images"):
        SelfDistillation(3, 64)(empty, [], (64, 64), lambda k: {}, nn.Identity())
    with pytest.raises(ValueError, match="maps: 1 levels, but width has 2"):
        step(SelfDistillation(3, [64, 32]), [torch.randn(len(TARGETS), 64, 8, 8)])


def test_a_distance_that_would_train_nothing_is_left_out() -> None:
    settings = {"adapter": nn.Identity(), "coefficient": {"value": 1.0, "start": 1}}
    part = SelfDistillation(3, 64, **settings)
    assert step(part)["loss_distillation"] == 0
    assert step(part)["loss_distillation"] > 0


def test_a_box_that_is_not_finite_is_refused_and_on_a_device_covers_nothing() -> None:
    boxes = torch.tensor([[4.0, 4.0, 30.0, 30.0], [0.0, float("nan"), 9.0, 9.0]])
    targets = [{"boxes": boxes, "labels": torch.tensor([2, 1])}, TARGETS[1]]
    part = SelfDistillation(3, 64)
    with pytest.raises(ValueError, match=r"boxes has non-finite values in row 1: .* \[0.0, nan, 9"):
        part(maps(), targets, (64, 64), lambda k: {}, nn.Identity())
    objects = pack_objects([{**TARGETS[0], "boxes": boxes[:1]}, TARGETS[1]])
    objects.boxes[0, 1] = float("nan")  # as a device may hold, which is not read
    assert descriptors(objects, 3, (64, 64)).isfinite().all()


def test_the_head_sees_enhanced_maps_only_every_nth_step() -> None:
    part = SelfDistillation(3, 64, teacher_every=2)
    taught = [len(step(part, head=lambda k: {"loss": k[0].mean()})) == 2 for _ in range(4)]
    assert taught == [False, True, False, True]
    assert [part.resting(i) for i in (0, 1)] == [[part.fusion], []]


def test_where_lambda_is_zero_for_some_steps_there_is_no_distance() -> None:
    calls: list[int] = []

    def distance(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        calls.append(len(student))
        return one(student, teacher)

    part = SelfDistillation(3, 64, coefficient={"steps": {0: 0.0, 2: 1.0}}, distance=distance)
    counts = []
    for _ in range(3):
        losses = step(part, head=lambda k: {"loss": sum(m.mean() for m in k)})
        sum(losses.values(), torch.zeros(())).backward()
        counts.append((len(losses), len(calls)))
        assert all(p.grad is not None for p in part.parameters())
    assert counts == [(2, 0), (2, 0), (2, 1)]
    assert [part.resting(i) for i in (0, 2)] == [[part.adapter], []]


def test_a_lambda_of_zero_adds_nothing_and_wants_no_gradient() -> None:
    part = SelfDistillation(3, 64, coefficient=0)
    assert step(part, head=lambda k: pytest.fail("the head ran")) == {}
    assert not any(p.requires_grad for p in part.parameters())


def test_a_function_is_no_coefficient() -> None:
    with pytest.raises(TypeError, match=r'function, which a checkpoint cannot store.*"steps"'):
        SelfDistillation(3, 64, coefficient=lambda i: 1.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="coefficient is a str: expected a number"):
        SelfDistillation(3, 64, coefficient="1")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="vlaue"):
        SelfDistillation(3, 64, coefficient={"vlaue": 1.0})


def saved_and_loaded(part: SelfDistillation) -> SelfDistillation:
    file = io.BytesIO()
    torch.save(part.state_dict(), file)
    file.seek(0)
    fresh = SelfDistillation(3, 64, coefficient=STEPWISE, distance=one)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    return fresh


def averaged(part: SelfDistillation) -> SelfDistillation:
    """A moving average made before training, whose buffers are copied (mmengine, torch)."""
    average = copy.deepcopy(SelfDistillation(3, 64, coefficient=STEPWISE, distance=one))
    for own, other in zip(average.buffers(), part.buffers(), strict=True):
        own.data.copy_(other.data)
    return saved_and_loaded(average)


COPIES = {
    "deep copy": copy.deepcopy,
    "pickle": lambda part: pickle.loads(pickle.dumps(part)),
    "state dict": saved_and_loaded,
    "moving average": averaged,
}


@pytest.mark.parametrize("name", COPIES)
def test_whatever_is_saved_goes_on_with_the_step(name: str) -> None:
    part = SelfDistillation(3, 64, coefficient=STEPWISE, distance=one)
    assert lambdas(part, 2) == [2.0, 2.0]
    copied = COPIES[name](part)
    assert lambdas(copied, 3) == [4.0, 4.0, 0.0]
    assert (int(part.step), int(copied.step)) == (2, 5)


def test_the_trainers_own_count_replaces_ours() -> None:
    part = SelfDistillation(3, 64, coefficient=STEPWISE, distance=one)
    values = [step(part, step=i)["loss_distillation"].item() for i in (2, 2, 4)]
    assert values == [4.0, 4.0, 0.0]
    assert part.step == 5


def test_another_adapter() -> None:
    seen: list[list[Tensor]] = []

    def distance(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        seen.append(student)
        return js_distance(student, teacher)

    distillation = SelfDistillation(3, 64, adapter=nn.Identity(), distance=distance)
    student = maps()
    step(distillation, student)
    assert all(a is b for a, b in zip(seen[0], student, strict=True))


class Scaled(nn.Module):
    """A distance with a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        return self.weight * js_distance(student, teacher)


@pytest.mark.parametrize("teacher_every", [1, 2])
def test_a_distance_with_weights_of_its_own_has_a_gradient_in_every_step(
    teacher_every: int,
) -> None:
    """DistributedDataParallel waits for it, also before the start and after the stop."""
    distance = Scaled()
    part = SelfDistillation(
        3, 64, coefficient={"start": 1, "stop": 3}, distance=distance, adapter_first=False,
        teacher_every=teacher_every,
    )  # fmt: skip
    for number in range(4):
        part.zero_grad(set_to_none=True)
        losses = step(part, head=lambda k: {"loss": k[0].mean()})
        sum(losses.values(), torch.zeros(())).backward()
        assert [n for n, p in part.named_parameters() if p.grad is None] == []
        rests = number in (0, 3)
        assert (distance in part.resting(number)) == rests
        assert bool(distance.weight.grad.any()) != rests


@pytest.mark.parametrize("fusion", [None, RelationFusion(3, 64)])
def test_in_float64(fusion: nn.Module | None) -> None:
    part = SelfDistillation(3, 64, fusion=fusion).double()
    losses = step(part, [m.double() for m in maps()], lambda k: {"loss": k[0].mean()})
    assert all(loss.dtype == torch.float64 for loss in losses.values())


def test_every_box_has_a_label() -> None:
    """Else labels shift from image to image where the totals agree."""
    boxes, labels = torch.tensor([[4.0, 4.0, 30.0, 30.0]]), torch.tensor([2])
    targets = [
        {"boxes": boxes.repeat(2, 1), "labels": labels},
        {"boxes": boxes, "labels": labels.repeat(2)},
    ]
    with pytest.raises(ValueError, match="image 0 has 2 boxes and 1 labels"):
        SelfDistillation(3, 64)(maps(), targets, (64, 64), lambda k: {}, nn.Identity())


def test_targets_must_fit_the_batch() -> None:
    with pytest.raises(ValueError, match="targets: 1 for a batch of 2 images"):
        SelfDistillation(3, 64)(maps(), TARGETS[:1], (64, 64), lambda k: {}, nn.Identity())
