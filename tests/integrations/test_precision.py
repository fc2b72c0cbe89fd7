"""Under autocast the distance, and the losses on K_e, are computed in fp32."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sssd.distillation import TeacherDistillation
from sssd.integrations import attach
from sssd.losses import sssd_loss
from sssd.precision import widened
from tests.integrations.yolo import batch, tiny_model
from tests.small import NUM_CLASSES, images_and_targets
from tests.tiny import tiny_detector


def noting(seen: list[Any]) -> Any:
    """A distance that computes in bf16 what it is given in bf16, as a user's own does."""

    def distance(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        seen.extend([torch.is_autocast_enabled("cpu"), *(m.dtype for m in [*student, *teacher])])
        return sssd_loss(student, teacher)

    return distance


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("fcos", torch.float16),
        ("fcos", torch.bfloat16),
        ("retinanet", torch.bfloat16),
        ("fasterrcnn", torch.bfloat16),
    ],
)
def test_torchvision_s_anchors_and_losses_on_k_e(kind: str, dtype: torch.dtype) -> None:
    model: Any = tiny_detector(kind, classes=NUM_CLASSES).model.train()  # type: ignore[arg-type]
    anchors, distances = [], []
    attach(model, distance=noting(distances))
    two_stage = kind == "fasterrcnn"
    generator = model.rpn.anchor_generator if two_stage else model.anchor_generator
    generator.register_forward_hook(lambda module, args, made: anchors.append(made[0]))
    head = model.rpn.head if two_stage else model.head
    hooks = len(head._forward_hooks)
    outputs: list[Tensor] = []
    owner = model.rpn if two_stage else model.head
    compute = owner.compute_loss

    def noted(*args: Any) -> Any:
        values = args[:2] if two_stage else args[1].values()
        outputs.extend(values)
        return compute(*args)

    owner.compute_loss = noted
    images, targets = images_and_targets()
    exact = model(images, targets)
    with torch.autocast("cpu", dtype):
        losses = model(images, targets)
    assert distances == ([False] + [torch.float32] * (len(distances) // 2 - 1)) * 2
    of_k_e = anchors[-1]
    assert of_k_e.dtype == torch.float32
    assert torch.equal(of_k_e, anchors[0])
    assert {x.dtype for x in outputs[-len(outputs) // 4 :]} == {torch.float32}
    ours = [name for name in losses if "teacher" in name or "distillation" in name]
    assert {losses[name].dtype for name in ours} == {torch.float32}
    if not two_stage:  # whose proposals are other ones
        for name in ours:
            assert losses[name].item() == pytest.approx(exact[name].item(), rel=0.1, abs=0.02)
    assert len(head._forward_hooks) == hooks, "none is left"


def test_ultralytics_losses_on_k_e() -> None:
    dtype = torch.bfloat16
    model = tiny_model()
    distances: list[Any] = []
    attach(model, distance=noting(distances))
    given = []
    model.criterion = model.init_criterion()
    call = model.criterion

    def noted(predictions: Any, target: Any) -> Any:
        given.append(predictions)
        return call(predictions, target)

    model.criterion = noted
    with torch.autocast("cpu", dtype):
        model(batch())
    assert distances == [False, *[torch.float32] * (len(distances) - 1)]
    dtypes = [{x.dtype for x in tensors_of(predictions)} for predictions in given]
    assert dtypes[1] == {torch.float32}
    assert dtype in dtypes[0], "of K, Ultralytics' own way"


def tensors_of(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    values = value.values() if isinstance(value, dict) else value
    return [x for one in values for x in tensors_of(one)]


def test_a_teacher_s_maps_too() -> None:
    seen: list[Any] = []
    student, teacher = torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(3, 8, 1)
    part = TeacherDistillation([4], teacher, [8], lambda x: [teacher(x)], noting(seen))
    images = torch.randn(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        part([student(images)], images)
    assert seen == [False, torch.float32, torch.float32]


def test_what_is_not_half_stays_as_it_is() -> None:
    whole, half = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float16)
    found = widened({"a": (whole, [half]), "b": 3})
    assert found["a"][0] is whole
    assert found["a"][1][0].dtype == torch.float32
    assert found["b"] == 3
