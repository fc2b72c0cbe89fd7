"""The drop-in adds losses in training, and nothing anywhere else."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from sssd.integrations import attach, detach
from sssd.integrations.torchvision import TorchvisionHost
from tests.small import images_and_targets

CLASSES = 6
KINDS = {"fcos": FCOS, "retinanet": RetinaNet, "fasterrcnn": FasterRCNN}


def build(kind: str) -> nn.Module:
    torch.manual_seed(0)
    extra = {} if kind == "fasterrcnn" else {
        "returned_layers": [2, 3, 4],
        "extra_blocks": LastLevelP6P7(256, 256),
    }  # fmt: skip
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, trainable_layers=5, **extra
    )
    return KINDS[kind](backbone, num_classes=CLASSES, min_size=64, max_size=96)


def losses_of(model: nn.Module) -> dict[str, Tensor]:
    images, targets = images_and_targets()
    torch.manual_seed(1)  # Faster R-CNN samples
    return model(images, targets)


def test_a_teacher_sees_the_batch_as_by_itself() -> None:
    """Whatever the student's normalisation is: else it is frozen on what it never saw."""
    model, teacher = build("fcos"), build("fcos")
    teacher.transform.image_mean, teacher.transform.image_std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    seen: list[Tensor] = []
    teacher.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    attach(model, teacher=teacher, loss="cwd")
    losses_of(model)
    images, _ = images_and_targets()
    with torch.no_grad():
        teacher.eval()(images)
    height, width = (torch.tensor(x.shape[-2:]) for x in seen)
    top, left = torch.minimum(height, width)
    inside = [x[0, :, : top // 2, : left // 2] for x in seen]  # apart from what pads
    torch.testing.assert_close(*inside, rtol=0, atol=1e-5)


def test_a_teacher_of_other_channels_is_refused() -> None:
    teacher = build("fcos")
    teacher.transform.image_mean, teacher.transform.image_std = [0.5] * 4, [0.2] * 4
    with pytest.raises(ValueError, match="model takes images of 3 channels, but teacher of 4"):
        attach(build("fcos"), teacher=teacher)


def test_arguments_without_effect_are_refused() -> None:
    with pytest.raises(ValueError, match=r"loss is 'pkd', which needs a teacher=.*distance="):
        attach(build("fcos"), loss="pkd")
    with pytest.raises(ValueError, match="num_classes is 3; beside a teacher="):
        attach(build("fcos"), teacher=build("fcos"), num_classes=3)
    model = build("fcos")
    with pytest.raises(ValueError, match="teacher is the model itself"):
        attach(model, teacher=model, loss="cwd")
    teacher = build("fcos")
    teacher.backbone = model.backbone
    with pytest.raises(ValueError, match=r"teacher shares weights with the model \(backbone\."):
        attach(model, teacher=teacher)
    with pytest.raises(ValueError, match="num_classes is 0; it must be a whole number of 1"):
        attach(model, num_classes=0)
    with pytest.raises(ValueError, match="host reads another model, a FCOS"):
        attach(model, host=TorchvisionHost(teacher))
    assert all(p.requires_grad for p in model.parameters())
    attach(model)
    with pytest.raises(RuntimeError, match="use DistributedDataParallel"):
        model._replicate_for_data_parallel()(*images_and_targets())


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_added_and_reach_every_part(kind: str) -> None:
    model = build(kind)
    plain = losses_of(model)
    part = attach(model)
    losses = losses_of(model)
    assert {n: v.item() for n, v in losses.items() if n in plain} == pytest.approx(
        {n: v.item() for n, v in plain.items()}
    )
    assert losses.keys() - plain.keys() == {
        "loss_distillation",
        *(f"teacher_{name}" for name in plain),
    }
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in part.parameters())
    losses = losses_of(model)
    (gradient,) = torch.autograd.grad(losses["loss_distillation"], model.backbone.body.conv1.weight)
    assert gradient.abs().sum() > 0
    assert part.step == 2


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_and_a_detached_model_are_as_before(kind: str) -> None:
    model = build(kind)
    before = model.state_dict().keys()
    images, _ = images_and_targets()
    model.eval()
    expected = model(images)
    part = attach(model)
    for found, wanted in zip(model(images), expected, strict=True):
        assert torch.equal(found["boxes"], wanted["boxes"])
    assert part.step == 0
    detach(model)
    assert model.state_dict().keys() == before
    model.train()
    assert not any("distillation" in name for name in losses_of(model))
    with pytest.raises(ValueError, match="nothing to detach"):
        detach(model)


def test_a_validation_loss_is_no_training_step() -> None:
    """Torchvision computes losses in training mode alone, so that this is how it is done."""
    model = build("fcos")
    with torch.no_grad():
        plain = losses_of(model)
        part = attach(model, coefficient={"value": 1.0, "step_factor": 10.0}, milestones=[1])
        assert losses_of(model).keys() == plain.keys()
    assert part.step == 0
    assert "loss_distillation" in losses_of(model)


def test_a_step_that_failed_leaves_nothing_behind() -> None:
    model = build("fcos")
    part = attach(model)
    images, targets = images_and_targets()
    bad = [{**target, "boxes": target["boxes"].flip(1)} for target in targets]
    with pytest.raises(AssertionError):  # torchvision's own, after the backbone has run
        model(images, bad)
    model.eval()
    model(images)
    assert not any(tap._is_open or tap._captured for tap in part.attachment.taps)
    model.train()
    assert "loss_distillation" in losses_of(model)


@pytest.mark.parametrize("kind", KINDS)
def test_in_float64(kind: str) -> None:
    model = build(kind).double()
    attach(model)
    images, targets = images_and_targets()
    wide = [{**target, "boxes": target["boxes"].double()} for target in targets]
    losses = model([image.double() for image in images], wide)
    assert losses["loss_distillation"].dtype == torch.float64
    assert all(loss.isfinite() for loss in losses.values())


def test_the_coefficient_weighs_and_follows_the_steps() -> None:
    model = build("fcos")
    part = attach(model, coefficient={"steps": {1: 3.0}, "start": 1})
    first, second = losses_of(model), losses_of(model)
    ratio = second["loss_distillation"] / first["loss_distillation"]
    assert ratio.item() == pytest.approx(3.0, rel=1e-2)  # batch norm's buffers move
    weight = model.backbone.body.conv1.weight
    assert torch.autograd.grad(first["loss_distillation"], weight, allow_unused=True) == (None,)
    assert torch.autograd.grad(second["loss_distillation"], weight)[0].abs().sum() > 0
    assert pickle.loads(pickle.dumps(model)).distillation.coefficient == part.coefficient
    other = build("fcos")
    attach(other).load_state_dict(part.state_dict())
    assert other.distillation.step == 2


@pytest.mark.parametrize("kind", ["fcos", "fasterrcnn"])
def test_a_coefficient_of_zero_is_plain_training_bit_for_bit(kind: str) -> None:
    found = []
    for attached in (False, True):
        model = build(kind)
        if attached:
            attach(model, coefficient=0.0)
        losses = model(*images_and_targets())  # Faster R-CNN samples
        sum(losses.values()).backward()
        if attached:
            detach(model)
        gradients = {name: p.grad for name, p in model.named_parameters()}
        found.append({**losses, **gradients, **dict(model.named_buffers())})
    plain, off = found
    assert plain.keys() == off.keys()
    assert all(torch.equal(off[name], value) for name, value in plain.items())


def test_copies_do_not_fire() -> None:
    model = build("fcos")
    attach(model)
    duplicate = copy.deepcopy(model)
    assert "loss_distillation" not in losses_of(duplicate)
    assert model.distillation.step == duplicate.distillation.step == 0
    detach(duplicate)
    assert "loss_distillation" in losses_of(model)


def test_a_pickled_model_distils_by_itself() -> None:
    model = build("fcos")
    attach(model)
    restored = pickle.loads(pickle.dumps(model))
    assert "loss_distillation" in losses_of(restored)
    assert model.distillation.step == 0


def test_models_that_share_a_backbone_are_detached_one_by_one() -> None:
    model, other = build("fcos"), build("fcos")
    other.backbone = model.backbone
    attach(model)
    attach(other)
    detach(model)
    assert "loss_distillation" in losses_of(other)
    assert "loss_distillation" not in losses_of(model)
    detach(other)
    assert not other.backbone._forward_hooks


def test_a_detached_model_is_freed_at_once() -> None:
    model = build("fcos")
    attach(model)
    gc.collect()
    detach(model)
    gone = weakref.ref(model)
    gc.disable()
    try:
        del model
        assert gone() is None
    finally:
        gc.enable()


def test_a_teacher_in_half_precision() -> None:
    model = build("fcos")
    attach(model, teacher=build("fcos").bfloat16())
    assert losses_of(model)["loss_distillation"].isfinite()


def test_captured_maps_are_dropped_after_the_loss() -> None:
    model = build("fcos")
    attach(model)
    seen: list[weakref.ref[Tensor]] = []
    model.backbone.register_forward_hook(
        lambda module, args, maps: seen.append(weakref.ref(maps["0"])) and None
    )
    sum(losses_of(model).values()).backward()
    gc.collect()
    assert len(seen) == 1
    assert seen[0]() is None


def test_a_backbone_that_was_replaced_is_found_out() -> None:
    model = build("fcos")
    attach(model)
    model.backbone = build("fcos").backbone
    with pytest.raises(RuntimeError, match=r"model\.backbone captured 0 passes"):
        losses_of(model)


def test_a_backbone_that_runs_twice_is_found_out() -> None:
    model = build("fcos")
    attach(model)
    again = model.backbone.register_forward_hook(
        lambda module, args, maps: module.forward(*args) and None
    )
    losses_of(model)  # forward() itself fires no hook
    again.remove()
    model.transform.register_forward_hook(lambda m, a, out: model.backbone(out[0].tensors) and None)
    with pytest.raises(RuntimeError, match=r"model\.backbone captured 2 passes"):
        losses_of(model)


def test_an_interrupted_step_leaves_nothing_behind() -> None:
    model = build("fcos")
    attach(model)
    head, model.head = model.head, nn.Identity()
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever torchvision says
        losses_of(model)
    model.head = head
    assert "loss_distillation" in losses_of(model)


def test_what_can_not_be_attached_to_is_refused() -> None:
    with pytest.raises(TypeError, match=r"model is a Linear.*before DistributedDataParallel"):
        attach(nn.Linear(1, 1))
    model = build("fcos")
    attach(model)
    with pytest.raises(ValueError, match="already"):
        attach(model)
