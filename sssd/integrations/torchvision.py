"""torchvision's FCOS, RetinaNet and Faster R-CNN, as their users build them.

Example:
    model = torchvision.models.detection.retinanet_resnet50_fpn_v2(num_classes=20)
    attach(model, coefficient=4.7)          # before the optimizer and DDP are made
    losses = model(images, targets)         # now with "loss_distillation" and "teacher_..."
    sum(losses.values()).backward()
    detach(model)                           # plain torchvision again: evaluate, export, save
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.image_list import ImageList

from sssd.integrations.host import Host, Step
from sssd.integrations.pixels import Pixels
from sssd.integrations.tap import Tap
from sssd.precision import widen_maps


def host(model: nn.Module) -> "TorchvisionHost | None":
    """The detector as `attach` reads it; None if it is none that is served."""
    return TorchvisionHost(model) if isinstance(model, FCOS | RetinaNet | FasterRCNN) else None


class TorchvisionHost(Host):
    """An FCOS, RetinaNet or FasterRCNN, or a subclass."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        if isinstance(model, FasterRCNN):
            self.num_classes = int(model.roi_heads.box_predictor.cls_score.out_features)
            self.heads = [model.rpn.head, model.roi_heads.box_predictor]
            levels = len(model.rpn.anchor_generator.sizes)
        else:
            self.num_classes = int(model.head.classification_head.num_classes)
            self.heads = [model.head]
            levels = len(model.anchor_generator.sizes)
        self.widths = [int(model.backbone.out_channels)] * levels
        self.pixels = Pixels(tuple(model.transform.image_mean), tuple(model.transform.image_std))

    def taps(self) -> list[Tap]:
        """The network's input after `transform`, and the pyramid."""
        return [
            Tap(self.model.transform, "model.transform"),
            Tap(self.model.backbone, "model.backbone"),
        ]

    def step(
        self, taken: list[Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> Step:
        """See `Host.step`."""
        (images, targets), maps = taken
        named = {"0": maps} if isinstance(maps, Tensor) else maps

        def head_losses(enhanced: list[Tensor]) -> dict[str, Tensor]:
            features = OrderedDict(zip(named, enhanced, strict=True))
            return _head_losses(self.model, images, features, targets)

        besides = (self.model.backbone,)
        return Step(images.tensors, list(named.values()), targets, head_losses, besides)

    def add(self, output: Any, losses: dict[str, Tensor]) -> Any:
        """More keys in the dict of losses."""
        return {**output, **losses}

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """The backbone's maps."""
        maps = self.model.backbone(images)
        return [maps] if isinstance(maps, Tensor) else list(maps.values())


def _head_losses(
    model: Any,
    images: ImageList,
    features: "OrderedDict[str, Tensor]",
    targets: list[dict[str, Tensor]],
) -> dict[str, Tensor]:
    """What the detector's forward computes after its backbone."""
    if isinstance(model, FasterRCNN):
        shaped = model.rpn.anchor_generator.register_forward_pre_hook(widen_maps)
        try:
            proposals, first = model.rpn(images, features, targets)
        finally:
            shaped.remove()
        _, second = model.roi_heads(features, proposals, images.image_sizes, targets)
        return {**first, **second}
    maps = list(features.values())
    outputs = model.head(maps)
    anchors = model.anchor_generator(*widen_maps(model.anchor_generator, (images, maps)))
    if isinstance(model, FCOS):
        cells = [m.shape[-2] * m.shape[-1] for m in maps]
        return model.compute_loss(targets, outputs, anchors, cells)
    return model.compute_loss(targets, outputs, anchors)
