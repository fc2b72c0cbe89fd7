"""mmdetection's single- and two-stage detectors, built by hand or from a config file.

Example, a whole config:
    _base_ = "retinanet_r50_fpn_1x_coco.py"
    custom_imports = dict(imports="sssd.integrations.mmdetection")
    model = dict(type="Distilled", detector="RetinaNet", distillation=dict(coefficient=4.7))
    custom_hooks = [dict(type="DistillationHook")]
"""

from collections.abc import Mapping
from typing import Any

import torch
from mmdet.models import SingleStageDetector, TwoStageDetector
from mmdet.registry import HOOKS, MODELS
from mmengine import Config
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import MultiStepParamScheduler
from mmengine.runner import load_checkpoint
from torch import Tensor, nn

from sssd.integrations.attach import ATTRIBUTE, attach
from sssd.integrations.host import Host, Step
from sssd.integrations.pixels import Pixels
from sssd.integrations.tap import Tap


@MODELS.register_module()
def Distilled(detector: str, distillation: Mapping[str, Any], **config: Any) -> nn.Module:
    """A detector of a config file with distillation attached.

    Args:
        detector: its type, such as "RetinaNet".
        distillation: settings of `sssd.attach`; a teacher is given by its files,
            teacher=dict(config="teacher.py", checkpoint="teacher.pth").
        config: the rest of the detector's own fields.
    """
    model = MODELS.build({"type": detector, **config})
    settings = dict(distillation)
    if "teacher" in settings:
        settings["teacher"] = _trained(**settings["teacher"])
    attach(model, **settings)
    return model


def _trained(config: str, checkpoint: str) -> nn.Module:
    model = MODELS.build(Config.fromfile(config).model)
    load_checkpoint(model, checkpoint, map_location="cpu")
    return model


@HOOKS.register_module()
class DistillationHook(Hook):
    """Makes lambda follow the runner, and stores the distillation apart from the model in
    checkpoints.

    A checkpoint's "state_dict" is the plain detector's, which loads without this package; the
    distillation is stored separately, as "distillation", for a run that resumes.
    """

    priority = "LOWEST"  # after EMAHook, which swaps weights in checkpoints

    def before_train(self, runner: Any) -> None:
        """Takes the milestones of the learning rate from the config's schedulers."""
        part = _part(runner)
        if not part.milestones:
            part.milestones = _milestones(runner)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Tells the step and the learning rate."""
        _part(runner).follow(runner.iter, runner.optim_wrapper.get_lr()["lr"][0])

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Moves the part; where an average is saved as the model, the weights that train."""
        saved = _pop(checkpoint["state_dict"], f"{ATTRIBUTE}.")
        training = _pop(checkpoint.get("ema_state_dict", {}), f"module.{ATTRIBUTE}.")
        checkpoint[ATTRIBUTE] = training or saved

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Puts the part back."""
        for name, tensor in checkpoint.pop(ATTRIBUTE, {}).items():
            checkpoint["state_dict"][f"{ATTRIBUTE}.{name}"] = tensor


def _part(runner: Any) -> Any:
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    if not hasattr(model, ATTRIBUTE):
        raise ValueError(
            "DistillationHook: the runner's model has no distillation: give the config "
            'model=dict(type="Distilled", detector=..., distillation=dict(...)), or take the hook '
            "out of custom_hooks"
        )
    return getattr(model, ATTRIBUTE)


def _milestones(runner: Any) -> tuple[int, ...]:
    """Iterations at which the learning rate falls."""
    epoch = len(runner.train_dataloader)
    return tuple(
        sorted(
            (scheduler.begin + milestone) * (epoch if scheduler.by_epoch else 1)
            for scheduler in runner.param_schedulers or ()
            if isinstance(scheduler, MultiStepParamScheduler) and scheduler.param_name == "lr"
            for milestone in scheduler.milestones
        )
    )


def _pop(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    names = [name for name in state if name.startswith(prefix)]
    return {name.removeprefix(prefix): state.pop(name) for name in names}


def host(model: nn.Module) -> "MMDetectionHost | None":
    """The detector as `attach` reads it; None if it is none that is served."""
    for base, name in ((SingleStageDetector, "bbox_head"), (TwoStageDetector, "rpn_head")):
        if isinstance(model, base) and type(model).extract_feat is base.extract_feat:
            head = getattr(model, name, None)
            return MMDetectionHost(model, head) if hasattr(head, "prior_generator") else None
    return None


class MMDetectionHost(Host):
    """A SingleStageDetector or TwoStageDetector, or a subclass whose maps are its neck's.

    Args:
        model: the detector.
        head: which its maps go to first.
    """

    def __init__(self, model: Any, head: Any) -> None:
        super().__init__(model)
        last: Any = model.roi_head.bbox_head if isinstance(model, TwoStageDetector) else head
        if isinstance(last, nn.ModuleList):  # a cascade's
            last = last[-1]
        self.num_classes = int(last.num_classes)
        same = isinstance(head.in_channels, int)
        levels = head.prior_generator.num_levels
        self.widths = [head.in_channels] * levels if same else list(head.in_channels)
        self.pixels = _pixels(model.data_preprocessor)

    def taps(self) -> list[Tap]:
        """The pyramid."""
        body = "neck" if self.model.with_neck else "backbone"
        return [Tap(getattr(self.model, body), f"model.{body}")]

    def is_training_step(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether losses are asked for."""
        return _bound(args, kwargs)["mode"] == "loss"

    def step(
        self, taken: list[Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> Step:
        """See `Host.step`."""
        call = _bound(args, kwargs)
        images, samples = call["inputs"], call["data_samples"]
        model = self.model

        def head_losses(enhanced: list[Tensor]) -> dict[str, Tensor]:
            model.extract_feat = lambda inputs: tuple(enhanced)
            try:
                losses = model.loss(images, samples)
            finally:
                del model.extract_feat
            return {name: _scalar(x) for name, x in losses.items() if "loss" in name}

        truth = [sample.gt_instances for sample in samples]
        targets = [
            {"boxes": getattr(g.bboxes, "tensor", g.bboxes), "labels": g.labels} for g in truth
        ]
        body = [model.backbone] + ([model.neck] if model.with_neck else [])
        return Step(images, list(taken[0]), targets, head_losses, tuple(body))

    def add(self, output: Any, losses: dict[str, Tensor]) -> Any:
        """More keys in the dict of losses, of which "loss" ones are trained and all are logged."""
        if "lambda" in (metrics := self.model.distillation.metrics):
            output = {**output, "lambda": torch.tensor(metrics["lambda"])}
        return {**output, **losses}

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """The neck's maps."""
        return list(self.model.extract_feat(images))


def _pixels(preprocessor: Any) -> Pixels:
    """What a DetDataPreprocessor makes of the BGR bytes that mmcv reads."""
    is_bgr = not getattr(preprocessor, "_channel_conversion", False)
    if not getattr(preprocessor, "_enable_normalize", False):
        return Pixels.of_bytes(torch.zeros(3), torch.ones(3), is_bgr=is_bgr)
    return Pixels.of_bytes(preprocessor.mean, preprocessor.std, is_bgr=is_bgr)


def _bound(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of BaseDetector.forward by name."""
    names = ("inputs", "data_samples", "mode")
    return {
        "data_samples": None,
        "mode": "tensor",
        **dict(zip(names, args, strict=False)),
        **kwargs,
    }


def _scalar(loss: Tensor | list[Tensor]) -> Tensor:
    """As BaseModel.parse_losses adds up what a head gives by level."""
    levels = [loss] if isinstance(loss, Tensor) else loss
    return torch.stack([level.mean() for level in levels]).sum()
