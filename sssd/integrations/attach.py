"""`attach` and `detach`: distillation as a module of a detector that another framework trains."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from sssd.distillation import SelfDistillation, TeacherDistillation
from sssd.integrations.host import Host
from sssd.integrations.resting import Resting
from sssd.losses import Loss
from sssd.precision import HALVES, outputs_widened

ATTRIBUTE = "distillation"  # the model's new part
HOSTS = {
    "detectron2": "sssd.integrations.detectron2",
    "mmdet": "sssd.integrations.mmdetection",
    "torchvision": "sssd.integrations.torchvision",
    "transformers": "sssd.integrations.transformers",
    "ultralytics": "sssd.integrations.ultralytics",
}  # the package of a detector's class: the module whose `host` reads it
SERVED = (
    "torchvision's FCOS, RetinaNet and FasterRCNN; Ultralytics' DetectionModel; transformers' "
    "RT-DETR, RT-DETRv2, D-FINE and DEIMv2; detectron2's RetinaNet, FCOS and GeneralizedRCNN; "
    "mmdetection's single- and two-stage detectors"
)

Part = SelfDistillation | TeacherDistillation


def attach(
    model: nn.Module,
    *,
    num_classes: int | None = None,
    host: Host | None = None,
    teacher: nn.Module | None = None,
    loss: str | Loss | None = None,
    **settings: Any,
) -> Part:
    """Adds distillation to a detector: in training it returns additional losses.

    Without a teacher this is smooth self-distillation: see `SelfDistillation`. With a teacher, the
    model's maps are pulled towards the teacher's: see `TeacherDistillation`. Evaluation does not
    change. The new module has parameters and becomes `model.distillation`, so attach it before you
    make the optimizer, DistributedDataParallel or torch.compile. A deep copy of the model is a
    plain detector that keeps the module's weights without using them.

    Args:
        model: a detector of torchvision, Ultralytics, transformers, detectron2 or mmdetection.
        num_classes: number of different labels; by default read from the model. torchvision's
            Faster R-CNN counts the background.
        host: reads a detector that is none of these (see `sssd.integrations.host.Host`).
        teacher: a trained detector of any supported framework whose pyramid has the same strides.
            It is given the images as its own framework normalises them.
        loss: with a teacher: a name in `sssd.losses.LOSSES`, or a module or function of the
            maps of both; by default "cwd".
        settings: of `SelfDistillation`: coefficient, milestones, fusion, adapter, distance,
            teacher_every; with a teacher, coefficient and milestones.

    Returns:
        The new module.

    Raises:
        TypeError: an unsupported model, or one that is already wrapped.
        ValueError: the model already has distillation; a host of another model; a loss without a
            teacher, or a number of classes with one.

    Example:
        >>> from torchvision.models.detection import fcos_resnet50_fpn
        >>> model = fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3)
        >>> part = attach(model, coefficient=4.7)
        >>> detach(model)
    """
    if host is None:
        host = _host_of("model", model)
    elif host.model is not model:
        raise ValueError(
            f"host reads another model, a {type(host.model).__name__}; make one of this"
        )
    if hasattr(model, ATTRIBUTE):
        raise ValueError("model already has distillation; detach(model) removes it")
    if teacher is None and loss is not None:
        raise ValueError(
            f"loss is {loss!r}, which needs a teacher=; without one, distance= is a function or "
            "module of both lists of maps"
        )
    if teacher is not None and num_classes is not None:
        raise ValueError(f"num_classes is {num_classes}; beside a teacher= it has no meaning")
    part: Part
    with torch.random.fork_rng(devices=[]):  # what the model draws is as without this part
        if teacher is None:
            classes = host.num_classes if num_classes is None else num_classes
            part = SelfDistillation(classes, host.widths, **settings)
        else:
            part = _taught(host, teacher, "cwd" if loss is None else loss, settings)
    own = next(model.parameters())
    # Halves stay to autocast; a model in float64 has none.
    part.to(own.device, torch.float64 if own.dtype == torch.float64 else None)
    setattr(model, ATTRIBUTE, part)
    part.attachment = Attachment(host, part)
    host.attached()
    return part


def _taught(
    host: Host, teacher: nn.Module, loss: str | Loss, settings: dict[str, Any]
) -> TeacherDistillation:
    """The part that pulls a model's maps towards those of a teacher."""
    if teacher is host.model:
        raise ValueError(
            "teacher is the model itself, which would be frozen; give another model, or leave "
            "teacher= out for self-distillation"
        )
    ids = {id(p) for p in host.model.parameters()}
    if shared := [name for name, p in teacher.named_parameters() if id(p) in ids]:
        raise ValueError(
            f"teacher shares weights with the model ({shared[0]}, {len(shared)} in all), which "
            "would be frozen; give a copy, such as copy.deepcopy(teacher)"
        )
    source = _host_of("teacher", teacher)
    channels, given = len(host.pixels.mean), len(source.pixels.mean)
    if channels != given:
        raise ValueError(f"model takes images of {channels} channels, but teacher of {given}")

    def pyramid(images: Tensor) -> list[Tensor]:
        seen = host.pixels.into(source.pixels, images)
        return source.pyramid(seen.to(next(teacher.parameters()).dtype))

    return TeacherDistillation(host.widths, teacher, source.widths, pyramid, loss, **settings)


def detach(model: nn.Module) -> None:
    """Removes distillation; what is left is the framework's plain model.

    Raises:
        ValueError: the model has none.
    """
    part = getattr(model, ATTRIBUTE, None)
    if not isinstance(part, Part):
        raise ValueError("model has no distillation; nothing to detach")
    if part.attachment.host.model is model:  # a deep copy shares the original's
        part.attachment.host.detached()
        part.attachment.resting.remove()
    strip(model, part.attachment)
    part.attachment = None


def strip(model: nn.Module, attachment: "Attachment") -> None:
    """Takes part and hooks off a model or a deep copy of one, which carries the hooks along.

    The hooks of another model, which shares modules with this one, stay.
    """
    model._modules.pop(ATTRIBUTE, None)
    own = [attachment, *attachment.taps]
    for module in model.modules():
        for kind in ("_forward_pre_hooks", "_forward_hooks"):
            hooks = getattr(module, kind)
            for number, hook in list(hooks.items()):
                if any(getattr(hook, "__self__", hook) is one for one in own):
                    del hooks[number]
                    getattr(module, f"{kind}_with_kwargs").pop(number, None)


def _host_of(argument: str, model: nn.Module) -> Host:
    """How a framework's detector is read; nothing is imported that the model did not bring."""
    for base in type(model).__mro__:
        if place := HOSTS.get(base.__module__.partition(".")[0]):
            host: Host | None = import_module(place).host(model)
            if host is not None:
                return host
            break
    raise TypeError(
        f"{argument} is a {type(model).__name__} of {type(model).__module__}; attach supports "
        f"{SERVED}, before DistributedDataParallel or torch.compile wrap them"
        + "; for another detector give host= (see sssd.integrations.host.Host)"
        * (argument == "model")
    )


class Attachment:
    """The hooks on one model, by object: a deep copy of the model does not fire them."""

    def __init__(self, host: Host, part: Part) -> None:
        self.host = host
        self.part = part
        self.taps = host.taps()
        self.resting = Resting(host.model, part)
        host.model.register_forward_pre_hook(self.before, with_kwargs=True)
        host.model.register_forward_hook(self.after, with_kwargs=True)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Attachment":
        """A copied model's hooks stay those of the original, which ignore the copy."""
        return self

    def acts(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether a call is a training step of the model itself.

        A call without gradients is none: losses on validation images, or PreciseBN's statistics.
        """
        if getattr(model, "_is_replica", False) and model.training:
            raise RuntimeError(
                "nn.DataParallel trains copies of the model, which have no distillation; use "
                "DistributedDataParallel"
            )
        return (
            model is self.host.model
            and model.training
            and torch.is_grad_enabled()
            and self.host.is_training_step(args, kwargs)
        )

    # A compiled model's step is compiled, ours is not. `torch.compiler.disable` would import dynamo
    # here, which takes longer than torch itself; this one does at the first call, as optimizers do.
    @torch._disable_dynamo
    def before(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Opens the taps for a training step; closes what a step that failed has left open."""
        acts = self.acts(model, args, kwargs)
        for tap in self.taps if model is self.host.model else ():
            tap.open() if acts else tap.close()

    @torch._disable_dynamo
    def after(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        """Adds to what the model returns in training."""
        if not self.acts(model, args, kwargs):
            return output
        step = self.host.step([tap.take() for tap in self.taps], args, kwargs, output)
        number = self.part.count
        with _precision_of(step.maps), outputs_widened(self.host.heads):
            if isinstance(self.part, TeacherDistillation):
                losses = self.part(step.maps, step.images)
            else:
                size = (step.images.shape[-2], step.images.shape[-1])
                losses = self.part(
                    step.maps, step.targets, size, step.head_losses, model, *step.besides
                )
        self.resting.after_training_step(number)
        return self.host.add(output, {name: x * step.scale for name, x in losses.items()})


def _precision_of(maps: list[Tensor]) -> AbstractContextManager[Any]:
    """Autocast as the maps were made in: accelerate's ends with the model's forward, before us."""
    dtype = maps[0].dtype
    if dtype in HALVES:
        return torch.autocast(maps[0].device.type, dtype)
    return nullcontext()
