"""Ultralytics' detection models (YOLOv8, 11, 26), and a trainer class for `YOLO.train`.

Ultralytics is AGPL-3.0 and not a dependency of this package: it is imported if it is installed.

Example:
    from sssd.integrations.ultralytics import Trainer
    from ultralytics import YOLO

    trainer = Trainer.with_settings(coefficient={"value": 4.7, "step_factor": 2.0})
    YOLO("yolo11n.yaml").train(trainer=trainer, data="coco8.yaml", epochs=100)
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn, optim
from ultralytics import __version__
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.modules.head import Detect, v10Detect
from ultralytics.nn.tasks import BaseModel, DetectionModel, load_checkpoint
from ultralytics.utils.torch_utils import ModelEMA, unwrap_model

from sssd.distillation import SelfDistillation
from sssd.integrations.attach import ATTRIBUTE, Part, attach, detach, strip
from sssd.integrations.host import Host, Step
from sssd.integrations.pixels import Pixels
from sssd.integrations.tap import Tap
from sssd.integrations.targets import boxes_in_pixels, split_by_image


def host(model: nn.Module) -> "UltralyticsHost | None":
    """The model as `attach` reads it; None if it is no model of Ultralytics.

    Raises:
        TypeError: a model for something else than upright boxes.
    """
    if not isinstance(model, BaseModel):
        return None
    head = model.model[-1]
    if not isinstance(model, DetectionModel) or type(head) not in (Detect, v10Detect):
        raise TypeError(
            f"a {type(model).__name__} with the head {type(head).__name__}: of Ultralytics, only "
            "detection models with the head Detect are supported (YOLOv8, 11, 26), not oriented "
            "boxes, masks, poses or RT-DETR. For the losses of any head, and "
            "axis-aligned boxes: sssd.distillation.SelfDistillation"
        )
    return UltralyticsHost(model)


class UltralyticsHost(Host):
    """A DetectionModel; K is what its neck hands to the head."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        head = model.model[-1]
        self.num_classes = int(head.nc)
        self.heads = [head]
        branches = head.one2one_cv2 if head.cv2 is None else head.cv2  # fused for inference
        self.widths = [int(branch[0].conv.in_channels) for branch in branches]
        self.pixels = Pixels()
        self._batch_size = 0

    def taps(self) -> list[Tap]:
        """The maps that the head is given."""
        return [Tap(self.model.model[-1], "model.model[-1]", of_input=True)]

    def is_training_step(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Ultralytics computes losses where the model is called with a batch, a dict."""
        return isinstance(_input(args, kwargs), dict)

    def step(
        self, taken: list[Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> Step:
        """See `Host.step`."""
        (maps,) = taken
        batch = _input(args, kwargs)
        images = batch["img"]
        count = self._batch_size = len(images)
        boxes = boxes_in_pixels(batch["bboxes"], (images.shape[-2], images.shape[-1]))
        targets = split_by_image(boxes, batch["cls"], batch["batch_idx"], count)
        *body, head = self.model.model

        def head_losses(enhanced: list[Tensor]) -> dict[str, Tensor]:
            losses, items = self.model.criterion(head(enhanced), batch)
            return {name: x / count for name, x in zip(items, losses.reshape(-1), strict=True)}

        return Step(images, list(maps), targets, head_losses, tuple(body), scale=count)

    def add(self, output: Any, losses: dict[str, Tensor]) -> Any:
        """(loss, items): the loss is summed by the trainer, the items are its table's columns.

        "ke_loss" is the head's loss on K_e, "dis_loss" lambda times the distance. As Ultralytics'
        own, losses are multiplied by the batch size and items are not.
        """
        loss, items = output
        if not isinstance(items, dict):
            raise RuntimeError(
                f"ultralytics {__version__} returns its loss items as {type(items).__name__}; "
                "8.4.140 or later is needed, which returns a dict"
            )
        if not losses:
            return output
        part = getattr(self.model, ATTRIBUTE)
        distance = losses.pop("loss_distillation")
        added = {"dis_loss": distance}
        if isinstance(part, SelfDistillation):  # in every step, or the trainer's mean loses it
            added = {"ke_loss": sum(losses.values(), torch.zeros_like(distance)), **added}
        shown = {name: x.detach() / self._batch_size for name, x in added.items()}
        shown["lambda"] = torch.full_like(shown["dis_loss"], float(part.metrics["lambda"]))
        total = torch.cat([loss.reshape(-1), *(x.reshape(1) for x in added.values())])
        return total, {**items, **shown}

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """What the neck makes of images."""
        (tap,) = self.taps()
        tap.open()
        try:
            self.model(images)
            return list(tap.take())
        finally:
            tap.remove()


def _input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return args[0] if args else kwargs.get("x")


class Trainer(DetectionTrainer):
    """Ultralytics' detection trainer with distillation in it, for `YOLO.train(trainer=...)`.

    It attaches to the model before the optimizer, DistributedDataParallel and the moving average
    are made. The moving average, which is what Ultralytics validates, saves and exports, is the
    plain model; the distillation and its step count are stored with the optimizer's state in
    last.pt, which Ultralytics removes from its checkpoints when training ends.

    The settings are those of `attach`, but `milestones`, and `start`, `stop` and `steps` of the
    coefficient, are in epochs, as in this trainer. Without milestones lambda is multiplied by the
    coefficient's `step_factor` for every tenfold decrease of the learning rate below its highest
    (gradually if it decreases smoothly). `teacher` may be the path of an Ultralytics checkpoint.

    Attributes:
        settings: of the class; to resume, pass a class with the same.
        part: the attached module; None before training, and if lambda is 0.

    Example:
        >>> trainer = Trainer.with_settings(coefficient=4.7)
        >>> YOLO("yolo11n.yaml").train(trainer=trainer, data="coco8.yaml")  # doctest: +SKIP
    """

    settings: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    part: Part | None = None
    _ema: ModelEMA | None = None
    _step = 0

    @classmethod
    def with_settings(cls, **settings: Any) -> "type[Trainer]":
        """This class with settings, as Ultralytics wants a class; its DDP carries them along."""
        return type(cls.__name__, (cls,), {"settings": {**cls.settings, **settings}})

    def setup_model(self) -> Any:
        """Builds the model as always, and attaches to it.

        Raises:
            ValueError: an argument of Ultralytics with which nothing would be distilled.
        """
        checkpoint = super().setup_model()
        settings = dict(self.settings)
        if isinstance(settings.get("teacher"), str | Path):
            settings["teacher"] = load_checkpoint(settings["teacher"])[0]
        part = attach(self.model, **settings)
        if part.coefficient.is_off:
            detach(self.model)
            return checkpoint
        refused = {
            "compile": bool(self.args.compile),  # the loss is then computed outside the model
            "distill_model": self.args.distill_model is not None,  # wraps the model likewise
            "quantize": self.args.quantize == 8,  # would quantize the part
        }
        for name in (name for name, is_set in refused.items() if is_set):
            raise ValueError(
                f"{name}={getattr(self.args, name)!r} does not work with the distillation of "
                f"{type(self).__name__}: leave out {name} or trainer="
            )
        self.part, self._by_epoch = part, (part.coefficient, part.milestones)
        return checkpoint

    def build_optimizer(self, model: nn.Module, *args: Any, **kwargs: Any) -> optim.Optimizer:
        """Ultralytics' optimizer, whose state dict carries the part's along."""
        optimizer = super().build_optimizer(model, *args, **kwargs)
        if (part := self.part) is not None:
            optimizer.register_state_dict_post_hook(
                lambda _, state: {**state, ATTRIBUTE: dict(part.state_dict())}
            )
            optimizer.register_load_state_dict_pre_hook(lambda _, state: _load(part, state))
        return optimizer

    def _model_train(self) -> None:
        """Ultralytics' beginning of an epoch: turns what is given in epochs into batches."""
        super()._model_train()
        if self.part is None:
            return
        batches = len(self.train_loader)
        coefficient, milestones = self._by_epoch
        self.part.coefficient = replace(
            coefficient,
            steps={epoch * batches: value for epoch, value in coefficient.steps.items()},
            start=coefficient.start * batches,
            stop=None if coefficient.stop is None else coefficient.stop * batches,
        )
        self.part.milestones = tuple(epoch * batches for epoch in milestones)
        self._step = self.epoch * batches
        if self.epoch == 0:  # begun anew after it ran out of memory, with another warm-up
            self.part.peak_rate.zero_()

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Called once a batch, when the warm-up has set the learning rate."""
        if self.part is not None:
            groups = self.optimizer.param_groups
            rate = next(g["lr"] for g in groups if g.get("param_group") != "bias")  # which falls
            self.part.follow(self._step, rate)
            self._step += 1
        return super().preprocess_batch(batch)

    @property
    def ema(self) -> ModelEMA | None:
        """The moving average, of the plain model."""
        return self._ema

    @ema.setter
    def ema(self, made: ModelEMA | None) -> None:
        if made is not None and self.part is not None:
            strip(made.ema, self.part.attachment)
        self._ema = made

    def _handle_nan_recovery(self, epoch: int) -> bool:
        """Loads last.pt into the model, strictly: it has the plain model's keys."""
        modules = unwrap_model(self.model)._modules
        part = modules.pop(ATTRIBUTE, None)
        try:
            return bool(super()._handle_nan_recovery(epoch))
        finally:
            if part is not None:
                modules[ATTRIBUTE] = part


def _load(part: Part, state: dict[str, Any]) -> None:
    if ATTRIBUTE not in state:
        raise ValueError(
            "resume: the checkpoint has no distillation state, as another trainer wrote it. Resume "
            "with that trainer, or start a new run from the checkpoint's weights, without resume="
        )
    part.load_state_dict(state[ATTRIBUTE])
