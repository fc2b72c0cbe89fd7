"""How `attach` sees transformers' RT-DETR, RT-DETRv2, D-FINE and DEIMv2."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sssd.distillation import SelfDistillation, running_state_kept
from sssd.integrations.attach import ATTRIBUTE
from sssd.integrations.host import Host, Step
from sssd.integrations.pixels import Pixels
from sssd.integrations.tap import Tap
from sssd.integrations.targets import boxes_in_pixels

CLASSES = frozenset(
    f"{name}ForObjectDetection" for name in ("RTDetr", "RTDetrV2", "DFine", "Deimv2")
)
BEFORE_THE_DECODER = ("backbone", "encoder_input_proj", "conv_encoder", "encoder")
LEAST_OF_THE_GRADIENT = 1e-4  # of an adapter; 0.1 when new, 1e-8 after from_pretrained


def host(model: nn.Module) -> "TransformersHost | None":
    """The detector as `attach` reads it; None if it is none that is served."""
    names = {base.__name__ for base in type(model).__mro__}
    return TransformersHost(model) if names & CLASSES else None


def _pixels_of(config: Any) -> Pixels:
    """As the image processors of these models give them: DINOv3 wants them normalised."""
    backbone = getattr(config, "backbone_config", None)
    if getattr(backbone, "model_type", None) == "dinov3_vit":
        return Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return Pixels()


class TransformersHost(Host):
    """An RT-DETR, RT-DETRv2, D-FINE or DEIMv2 for object detection, or a subclass.

    K are the encoder's maps. For the losses on K_e the model runs again after its encoder.

    Attributes:
        sums: sum and number of the losses so far, by their name in Trainer's log.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.num_classes = model.config.num_labels
        self.widths = list(model.config.decoder_in_channels)
        self.pixels = _pixels_of(model.config)
        self.sums: dict[str, Tensor] = {}
        self._saved_before: Any = None
        self._adapter_lives = False

    def attached(self) -> None:
        """Keeps the part out of what `save_pretrained` writes and `load_state_dict` expects."""
        self._saved_before = self.model._keys_to_ignore_on_save
        ours = {f"{ATTRIBUTE}.{name}" for name in getattr(self.model, ATTRIBUTE).state_dict()}
        self.model._keys_to_ignore_on_save = ours.union(self._saved_before or ())

    def detached(self) -> None:
        """Undoes `attached`."""
        self.model._keys_to_ignore_on_save = self._saved_before

    def taps(self) -> list[Tap]:
        """The encoder's maps."""
        return [Tap(self.model.model.encoder, "model.model.encoder")]

    def is_training_step(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether there are labels.

        Raises:
            ValueError: boxes of another form than (n, 4), or no images.
        """
        call = self._call(args, kwargs)
        for i, label in enumerate(call.get("labels") or ()):
            shape = tuple(label["boxes"].shape)
            if len(shape) != 2 or shape[1] != 4:
                raise ValueError(
                    f'labels[{i}]["boxes"] has shape {shape}: expected (n, 4), center x and y, '
                    "width and height as fractions of the image; oriented boxes are not supported"
                )
        if call.get("labels") is not None and call.get("pixel_values") is None:
            raise ValueError("pixel_values is missing: distillation needs the size of the images")
        return call.get("labels") is not None

    def step(
        self, taken: list[Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> Step:
        """See `Host.step`."""
        self._refuse_a_dead_adapter()
        call = self._call(args, kwargs)
        images, base = call["pixel_values"], self.model.model
        size = (images.shape[-2], images.shape[-1])
        targets = [
            {"boxes": boxes_in_pixels(x["boxes"], size), "labels": x["class_labels"]}
            for x in call["labels"]
        ]
        (encoded,) = taken

        def head_losses(enhanced: list[Tensor]) -> dict[str, Tensor]:
            again = {**call, "inputs_embeds": images, "return_dict": True}
            with _gives(base.encoder, _with_maps(encoded, enhanced)):
                # Not model(...), whose hooks would distil this pass too.
                return dict(self.model.forward(**again).loss_dict)

        besides = [getattr(base, name) for name in BEFORE_THE_DECODER if hasattr(base, name)]
        return Step(images, _maps_of(encoded), targets, head_losses, tuple(besides))

    def add(self, output: Any, losses: dict[str, Tensor]) -> Any:
        """More in `loss` and `loss_dict`, or in the tuple of `return_dict=False`."""
        if not losses:
            return output
        by_part: dict[str, list[Tensor]] = {"distillation_loss": [], "teacher_loss": []}
        for name, loss in losses.items():
            by_part["teacher_loss" if name.startswith("teacher_") else "distillation_loss"] += [
                loss
            ]
        for name, parts in by_part.items():
            if parts:
                total = torch.stack([p.detach().float() for p in parts]).sum()
                pair = torch.stack([total, torch.ones_like(total)])
                self.sums[name] = self.sums[name] + pair if name in self.sums else pair
        added = torch.stack([loss.float() for loss in losses.values()]).sum()
        if isinstance(output, tuple):
            loss, loss_dict, *others = output
            return (loss + added, {**loss_dict, **losses}, *others)
        output.loss = output.loss + added
        output.loss_dict = {**output.loss_dict, **losses}
        return output

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """The encoder's maps."""
        base = self.model.model
        if hasattr(base, "conv_encoder"):  # DEIMv2
            return _maps_of(base.encoder(base.conv_encoder(images)))
        mask = images.new_ones((len(images), *images.shape[-2:]))
        features = [m for m, _ in base.backbone(images, mask)]
        projected = [p(m) for p, m in zip(base.encoder_input_proj, features, strict=True)]
        return _maps_of(base.encoder(projected))

    def _call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call of the model by name."""
        signature = inspect.signature(type(self.model).forward)
        call = dict(signature.bind(self.model, *args, **kwargs).arguments)
        return {**call.pop("kwargs", {}), **{n: x for n, x in call.items() if n != "self"}}

    def _refuse_a_dead_adapter(self) -> None:
        """Finds an adapter whose weights were initialised again, once."""
        part = getattr(self.model, ATTRIBUTE)
        if self._adapter_lives or not isinstance(part, SelfDistillation):
            return
        share = _share_of_the_gradient(part)
        if not share > LEAST_OF_THE_GRADIENT:  # or NaN
            raise ValueError(
                f"the distillation adapter passes on only {share:.0e} of the gradient, so nothing "
                "would be distilled: its weights were initialized again after attach, as "
                "from_pretrained and init_weights do with every module. Attach after "
                "from_pretrained, or call detach(model) and attach(model) again"
            )
        self._adapter_lives = True


def _maps_of(encoded: Any) -> list[Tensor]:
    """The maps are the first of an encoder's outputs, whatever it calls them."""
    return list(encoded[0])


def _with_maps(encoded: Any, maps: list[Tensor]) -> Any:
    """An encoder's output with other maps."""
    if isinstance(encoded, tuple):
        return (maps, *encoded[1:])
    return type(encoded)(**{**encoded, next(iter(encoded)): maps})


@contextmanager
def _gives(module: nn.Module, output: Any) -> Iterator[None]:
    """Lets a module return something without running it."""
    own = vars(module).get("forward")
    module.forward = lambda *args, **kwargs: output
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


def _share_of_the_gradient(part: SelfDistillation) -> float:
    """Norm of a gradient after the adapter as a share of what came in."""
    given = torch.Generator().manual_seed(0)  # draws nothing from the trainer's numbers
    dtype = next((p.dtype for p in part.adapter.parameters()), None)
    noise = torch.randn(2, 1, part.projection.width, 8, 8, generator=given)
    noise = noise.to(part.step.device, dtype)
    with torch.enable_grad(), running_state_kept(part.adapter):
        maps = noise[0].requires_grad_()
        (gradient,) = torch.autograd.grad((part.adapter(maps) * noise[1]).sum(), maps)
    return float(gradient.norm() / noise[1].norm())
