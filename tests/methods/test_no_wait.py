"""A training step never waits for the device: of ours, that is; torchvision's own losses do.

The meta device stands for an accelerator. An operator whose result the host must read raises there.
"""

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from sssd.detectors import Batch, Detector
from sssd.distillation import SelfDistillation
from sssd.integrations import split_by_image
from sssd.methods import (
    LabelEncStep1Config,
    LGDConfig,
    PlainConfig,
    RelationConfig,
    SSSDConfig,
    build_method,
)
from sssd.schedules import CoefficientConfig, ScheduleConfig
from tests.tiny import WIDTH, _backbone

DEVICE = torch.device("meta")
IMAGE_SIZE = (64, 96)
METHODS = {
    "plain": PlainConfig(),
    "painted": SSSDConfig(over="cells"),
    "relation": SSSDConfig(fusion=RelationConfig(context=False)),
    "rarely": SSSDConfig(teacher_every=2, root="row", frozen_backbone=1),
    "lgd": LGDConfig(),
    "labelenc": LabelEncStep1Config(coefficient=CoefficientConfig(start=0)),
}


class Copies(TorchFunctionMode):
    """What goes from the host to the device, and what the host reads of it."""

    def __init__(self) -> None:
        super().__init__()
        self.pinned: list[Tensor] = []
        self.found: list[str] = []
        self.dispatched = _Dispatched(self)

    def __enter__(self) -> "Copies":
        self.dispatched.__enter__()
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self.dispatched.__exit__(*error)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is Tensor.pin_memory:  # this machine has no device to pin for
            self.pinned.append(args[0])
            return args[0]
        result = function(*args, **(kwargs or {}))
        if function in (torch.tensor, torch.as_tensor, Tensor.new_tensor) and result.is_meta:
            self.found.append(f"{function.__name__}{tuple(result.shape)}")  # unseen when dispatched
        return result


class _Dispatched(TorchDispatchMode):
    reads = ("_local_scalar_dense", "item", "_assert_async", "nonzero", "masked_select", "bincount")

    def __init__(self, copies: Copies) -> None:
        super().__init__()
        self.copies = copies

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        on_device = [x for x in args if isinstance(x, Tensor) and x.device == DEVICE]
        if on_device and name.startswith(self.reads):
            self.copies.found.append(name)
        result = function(*args, **(kwargs or {}))
        if name in ("_to_copy", "copy_") and result.device == DEVICE:
            (source,) = [x for x in args if isinstance(x, Tensor)][-1:]
            if source.device != DEVICE:
                quick = kwargs.get("non_blocking") and any(source is x for x in self.copies.pinned)
                self.copies.found.append("pinned" if quick else "blocking")
        return result


class OnMeta(Detector):
    """A detector of the least that methods need."""

    num_classes, width = 3, WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.network = _backbone(8, 3, LastLevelP6P7(WIDTH, WIDTH))
        self.tower = nn.Conv2d(WIDTH, 1, 1)

    backbone = property(lambda self: self.network.body)
    pyramid = property(lambda self: self.network.fpn)
    head = property(lambda self: self.tower)

    def prepare(self, images, targets=None):
        return Batch(torch.stack(images), [IMAGE_SIZE] * 2, [IMAGE_SIZE] * 2, targets)

    def maps(self, batch):
        return list(self.network(batch.tensors).values())

    def assign(self, maps, batch):
        assert all(x.is_meta for target in batch.targets for x in target.values())

    def losses(self, maps, batch, assignment):
        return {"loss": torch.stack([self.tower(m).mean() for m in maps]).sum()}

    def detections(self, maps, batch):
        raise NotImplementedError


def targets() -> list[dict[str, Tensor]]:
    boxes = torch.tensor([[4.0, 4.0, 30.0, 34.0], [20.0, 10.0, 70.0, 58.0]])
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    return [{"boxes": boxes, "labels": torch.tensor([1, 2])}, nothing]


@pytest.mark.parametrize("name", METHODS)
def test_targets_go_to_the_device_in_one_copy_and_nothing_comes_back(name: str) -> None:
    method = build_method(OnMeta(), METHODS[name], ScheduleConfig()).to(DEVICE)
    images = [torch.zeros(3, *IMAGE_SIZE, device=DEVICE) for _ in range(2)]
    for iteration in range(2):
        with Copies() as copies:
            result = method(images, targets(), iteration)
            torch.stack(list(result.losses.values())).sum().backward()
        # LabelEnc: the numbers of the classes that each image shows, too.
        assert copies.found == ["pinned"] * (2 if name == "labelenc" else 1)


@pytest.mark.parametrize("held", ["cpu", "meta"])
def test_self_distillation_copies_once_wherever_the_targets_are(held: str) -> None:
    part = SelfDistillation(num_classes=3, width=WIDTH).to(DEVICE)
    maps = [torch.zeros(2, WIDTH, 8, 12, device=DEVICE, requires_grad=True)]
    given = [{name: x.to(held) for name, x in target.items()} for target in targets()]
    with Copies() as copies:
        losses = part(maps, given, IMAGE_SIZE, lambda enhanced: {"loss": enhanced[0].mean()}, part)
        sum(losses.values()).backward()
    assert copies.found == ["pinned"]


def test_flat_targets_of_which_the_host_knows_the_images_are_split_without_waiting() -> None:
    boxes, labels = torch.zeros(3, 4, device=DEVICE), torch.zeros(3, 1, device=DEVICE)
    with Copies() as copies:
        split = split_by_image(boxes, labels, torch.tensor([1.0, 0.0, 1.0]), 2)
    assert [len(target["labels"]) for target in split] == [1, 2]
    assert copies.found == ["pinned"]


def test_labels_on_the_host_are_looked_at_once() -> None:
    method = build_method(OnMeta(), METHODS["plain"], ScheduleConfig()).to(DEVICE)
    bad = targets()
    bad[0]["labels"][1] = 3
    images = [torch.zeros(3, *IMAGE_SIZE, device=DEVICE) for _ in range(2)]
    with pytest.raises(ValueError, match=r"labels has values outside 0 \.\. 2 .* in row 1"):
        method(images, bad, 0)
