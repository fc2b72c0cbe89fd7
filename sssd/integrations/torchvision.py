"""SSSD inside torchvision's FCOS, RetinaNet and Faster R-CNN, as its users build them.

Example:
    model = torchvision.models.detection.retinanet_resnet50_fpn_v2(num_classes=20)
    attach(model, coefficient=4.7)          # before the optimizer and DDP are made
    losses = model(images, targets)         # now with "loss_distillation" and "teacher_..."
    sum(losses.values()).backward()
    detach(model)                           # plain torchvision again: evaluate, export, save
"""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.image_list import ImageList

from sssd.distillation import SelfDistillation
from sssd.integrations.tap import Tap

ATTRIBUTE = "self_distillation"  # the model's new part


def attach(model: nn.Module, num_classes: int | None = None, **settings: Any) -> SelfDistillation:
    """Gives a torchvision detector self-distillation: its loss dict gets more keys in training.

    Evaluation is untouched. The new part has parameters and becomes `model.self_distillation`, so
    attach it before the optimizer, DistributedDataParallel and torch.compile. A deep copy of the
    model is a plain detector that carries the new part's weights along unused.

    Args:
        model: an FCOS, RetinaNet or FasterRCNN, or a subclass.
        num_classes: number of different labels, the background's included for Faster R-CNN; by
            default the head says it.
        settings: of `SelfDistillation`: coefficient, milestones, fusion, adapter, distance,
            teacher_every.

    Returns:
        The new part.

    Raises:
        TypeError: another model, or one that is wrapped already.
        ValueError: the model has self-distillation already.
    """
    if not isinstance(model, (FCOS, RetinaNet, FasterRCNN)):
        raise TypeError(
            f"model is a {type(model).__name__}; FCOS, RetinaNet and FasterRCNN of torchvision can "
            "be attached to, before DistributedDataParallel or torch.compile wrap them. For other "
            "detectors use SelfDistillation: docs/integrations.md"
        )
    if hasattr(model, ATTRIBUTE):
        raise ValueError("model has self-distillation already; detach(model) takes it off")
    with torch.random.fork_rng(devices=[]):  # what the model draws is as without this part
        part = SelfDistillation(num_classes or _num_classes(model), _width(model), **settings)
    part.to(next(model.backbone.parameters()).device)
    setattr(model, ATTRIBUTE, part)
    part.attachment = _Attachment(model, part)
    return part


def detach(model: nn.Module) -> None:
    """Takes self-distillation off; what is left is the plain torchvision model.

    Raises:
        ValueError: the model has none.
    """
    part = getattr(model, ATTRIBUTE, None)
    if not isinstance(part, SelfDistillation):
        raise ValueError("model has no self-distillation; nothing to detach")
    if part.attachment.model is model:  # a deep copy shares the original's
        part.attachment.remove()
    delattr(model, ATTRIBUTE)


class _Attachment:
    """The hooks on one model, by object."""

    def __init__(self, model: Any, part: SelfDistillation) -> None:
        self.model = model
        self.part = part
        self.network_input = Tap(model.transform, "model.transform")
        self.maps = Tap(model.backbone, "model.backbone")
        self._handles = [
            model.register_forward_pre_hook(self.before),
            model.register_forward_hook(self.after),
        ]

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Attachment":
        """A copied model's hooks stay those of the original, which ignore the copy."""
        return self

    def remove(self) -> None:
        """Takes every hook off."""
        for hook in (self.network_input, self.maps, *self._handles):
            hook.remove()

    def before(self, model: nn.Module, args: Any) -> None:
        """Opens the taps for a training step."""
        if model is self.model and model.training:
            self.network_input.open()
            self.maps.open()

    def after(self, model: nn.Module, args: Any, losses: Any) -> Any:
        """Adds to what the model returns in training."""
        if model is not self.model or not model.training:
            return losses
        images, targets = self.network_input.take()
        maps = self.maps.take()
        named = {"0": maps} if isinstance(maps, Tensor) else maps
        height, width = images.tensors.shape[-2:]

        def head_losses(enhanced: list[Tensor]) -> dict[str, Tensor]:
            features = OrderedDict(zip(named, enhanced, strict=True))
            return _head_losses(self.model, images, features, targets)

        added = self.part(
            list(named.values()), targets, (height, width), head_losses, model, model.backbone
        )
        return {**losses, **added}


def _head_losses(
    model: Any,
    images: ImageList,
    features: "OrderedDict[str, Tensor]",
    targets: list[dict[str, Tensor]],
) -> dict[str, Tensor]:
    """What the detector's forward computes behind its backbone."""
    if isinstance(model, FasterRCNN):
        proposals, first = model.rpn(images, features, targets)
        _, second = model.roi_heads(features, proposals, images.image_sizes, targets)
        return {**first, **second}
    maps = list(features.values())
    outputs = model.head(maps)
    # Anchors take their dtype from the maps, and bf16 ones would lie pixels off.
    shapes = [m.new_empty((), dtype=torch.float32).expand(m.shape) for m in maps]
    anchors = model.anchor_generator(images, shapes)
    if isinstance(model, FCOS):
        cells = [m.shape[-2] * m.shape[-1] for m in maps]
        return model.compute_loss(targets, outputs, anchors, cells)
    return model.compute_loss(targets, outputs, anchors)


def _num_classes(model: Any) -> int:
    if isinstance(model, FasterRCNN):
        return int(model.roi_heads.box_predictor.cls_score.out_features)
    return int(model.head.classification_head.num_classes)


def _width(model: Any) -> int:
    return int(model.backbone.out_channels)
