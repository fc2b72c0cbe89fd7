"""detectron2's RetinaNet, FCOS and GeneralizedRCNN, built by hand, from a config or a LazyConfig.

Example:
    cfg = get_cfg()
    add_sssd_config(cfg)  # the node MODEL.SSSD
    cfg.merge_from_file("retinanet.yaml")
    cfg.MODEL.SSSD.META_ARCHITECTURE = cfg.MODEL.META_ARCHITECTURE
    cfg.MODEL.META_ARCHITECTURE = "Distilled"
    DefaultTrainer(cfg).train()
"""

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.modeling.meta_arch import FCOS, RetinaNet
from detectron2.structures import ImageList
from detectron2.utils.events import EventStorage, get_event_storage
from torch import Tensor, nn

from sssd.integrations.attach import attach
from sssd.integrations.host import Host, Step
from sssd.integrations.pixels import Pixels
from sssd.integrations.tap import Tap


def add_sssd_config(cfg: CfgNode) -> None:
    """Adds the node MODEL.SSSD, which the architecture "Distilled" reads.

    META_ARCHITECTURE is the detector's own; the others are fields of
    `sssd.schedules.CoefficientConfig` and an argument of `SelfDistillation`. Lambda is multiplied
    by STEP_FACTOR at each of SOLVER.STEPS.
    """
    cfg.MODEL.SSSD = CfgNode()
    cfg.MODEL.SSSD.META_ARCHITECTURE = "RetinaNet"
    cfg.MODEL.SSSD.COEFFICIENT = 1.0
    cfg.MODEL.SSSD.STEP_FACTOR = 1.0
    cfg.MODEL.SSSD.START = 0
    cfg.MODEL.SSSD.TEACHER_EVERY = 1


@META_ARCH_REGISTRY.register()
def Distilled(cfg: CfgNode) -> nn.Module:
    """The architecture named in MODEL.SSSD with self-distillation attached."""
    node = cfg.MODEL.SSSD
    return distilled(
        META_ARCH_REGISTRY.get(node.META_ARCHITECTURE)(cfg),
        coefficient={
            "value": node.COEFFICIENT,
            "step_factor": node.STEP_FACTOR,
            "start": node.START,
        },
        milestones=cfg.SOLVER.STEPS if "MultiStep" in cfg.SOLVER.LR_SCHEDULER_NAME else (),
        teacher_every=node.TEACHER_EVERY,
    )


def distilled(model: nn.Module, **settings: Any) -> nn.Module:
    """A detector with `attach(model, **settings)` done, for a LazyConfig.

    Example:
        cfg.model = LazyCall(distilled)(model=cfg.model, coefficient=4.7)
    """
    attach(model, **settings)
    return model


def host(model: nn.Module) -> "Detectron2Host | None":
    """The detector as `attach` reads it; None if it is none that is served."""
    served = isinstance(model, RetinaNet | FCOS | GeneralizedRCNN)
    return Detectron2Host(model) if served else None


class Detectron2Host(Host):
    """A RetinaNet, FCOS or GeneralizedRCNN, or a subclass."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        shapes = model.backbone.output_shape()
        if isinstance(model, GeneralizedRCNN):
            self.num_classes = int(model.roi_heads.num_classes)
            self.names = sorted(shapes, key=lambda name: shapes[name].stride)
        else:
            self.num_classes = int(model.num_classes)
            self.names = list(model.head_in_features)
        self.widths = [int(shapes[name].channels) for name in self.names]
        is_bgr = (getattr(model, "input_format", None) or "BGR") == "BGR"
        self.pixels = Pixels.of_bytes(model.pixel_mean, model.pixel_std, is_bgr=is_bgr)

    def taps(self) -> list[Tap]:
        """The network's input, and the pyramid."""
        backbone = self.model.backbone
        return [
            Tap(backbone, "the input of model.backbone", of_input=True),
            Tap(backbone, "model.backbone"),
        ]

    def step(
        self, taken: list[Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> Step:
        """See `Host.step`; the trainer's count and learning rate are its event storage's."""
        images, features = taken
        inputs = args[0] if args else kwargs["batched_inputs"]
        truth = [x["instances"].to(images.device) for x in inputs]
        batch = ImageList(images, [tuple(x["image"].shape[-2:]) for x in inputs])
        storage = get_event_storage()
        rate, _ = storage.latest().get("lr", (None, 0))  # of the step before
        self.model.distillation.follow(storage.iter, rate)

        def head_losses(enhanced: list[Tensor]) -> dict[str, Tensor]:
            with EventStorage(storage.iter):  # what the trainer logs is what K gave
                if isinstance(self.model, GeneralizedRCNN):
                    maps = dict(zip(self.names, enhanced, strict=True))
                    return self._box_losses(batch, maps, truth, inputs)
                outputs = self.model.head(enhanced)
                losses: dict[str, Tensor] = self.model.forward_training(
                    batch, enhanced, outputs, truth
                )
                return losses

        maps = [features[name] for name in self.names]
        targets = [{"boxes": g.gt_boxes.tensor, "labels": g.gt_classes} for g in truth]
        return Step(images, maps, targets, head_losses, (self.model.backbone,))

    def _box_losses(
        self, batch: ImageList, maps: dict[str, Tensor], truth: list[Any], inputs: list[Any]
    ) -> dict[str, Tensor]:
        """What GeneralizedRCNN computes after its backbone."""
        first: dict[str, Tensor] = {}
        if self.model.proposal_generator is not None:
            proposals, first = self.model.proposal_generator(batch, maps, truth)
        else:
            proposals = [x["proposals"].to(batch.device) for x in inputs]
        _, second = self.model.roi_heads(batch, maps, proposals, truth)
        return {**second, **first}

    def add(self, output: Any, losses: dict[str, Tensor]) -> Any:
        """More keys in the dict of losses, which the trainer adds up and logs; lambda beside it."""
        if "lambda" in (metrics := self.model.distillation.metrics):
            # Without smoothing: the log has the lambda that acts, no median of the last 20 steps.
            get_event_storage().put_scalar(
                "distillation/lambda", metrics["lambda"], smoothing_hint=False
            )
        return {**output, **losses}

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """The backbone's maps."""
        maps = self.model.backbone(images)
        return [maps[name] for name in self.names]
