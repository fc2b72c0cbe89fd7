"""What is deployed has seen K alone: the pass on K_e leaves no trace in any running state."""

import copy
from collections import deque
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import spectral_norm
from torch.nn.utils.parametrizations import spectral_norm as parametrized_spectral_norm
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor

from sssd.distillation import SelfDistillation, running_state_kept
from sssd.integrations import attach
from sssd.methods import PaintedConfig, build_method
from sssd.methods.settings import MethodName
from sssd.schedules import ScheduleConfig
from tests.small import images_and_targets, method_config, small_detector

WIDTH = 4


class Pair(NamedTuple):
    total: Tensor
    calls: list[int]


class Unforeseen(nn.Module):
    """State of every kind that a forward pass may leave behind."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("in_place", torch.ones(1))
        self.register_buffer("replaced", torch.ones(1))
        self.register_buffer("absent", None)
        self.loss_normalizer = 100.0  # detectron2's: a number
        self.tensor = torch.ones(1)  # no buffer, written in place
        self.again = [self.tensor]  # the same one: who writes here must be seen there
        self.queue: deque[Tensor] = deque([torch.ones(1)], maxlen=2)
        self.counts = {"calls": 0, "nested": [torch.zeros(1)]}
        self.seen: set[int] = set()
        self.pair = Pair(torch.zeros(1), [0])

    def forward(self, x: Tensor) -> Tensor:
        mean = x.detach().mean()
        self.in_place.mul_(0.9).add_(mean)
        self.replaced = self.replaced * 0.9 + mean
        self.absent = mean
        self.loss_normalizer = 0.9 * self.loss_normalizer + 0.1 * float(mean)
        self.again[0].add_(mean)
        self.queue.append(mean[None])
        self.counts["calls"] += 1
        self.counts["nested"][0].add_(1)
        self.seen.add(len(self.seen))
        self.pair.total.add_(1)
        self.pair.calls[0] += 1
        setattr(self, f"number{self.counts['calls']}", 1.0)
        self.register_buffer(f"made{self.counts['calls']}", mean.clone())
        return x * self.scale * self.in_place / self.loss_normalizer + self.tensor


MODULES = {
    "BatchNorm1d": (lambda: nn.BatchNorm1d(WIDTH), (5,)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(WIDTH), (5, 5)),
    "BatchNorm2d, cumulative": (lambda: nn.BatchNorm2d(WIDTH, momentum=None), (5, 5)),
    "BatchNorm3d": (lambda: nn.BatchNorm3d(WIDTH), (2, 3, 3)),
    "SyncBatchNorm": (lambda: nn.SyncBatchNorm(WIDTH), (5, 5)),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(WIDTH, track_running_stats=True), (5, 5)),
    "spectral_norm": (lambda: spectral_norm(nn.Conv2d(WIDTH, WIDTH, 1)), (5, 5)),
    "spectral_norm, parametrized": (
        lambda: parametrized_spectral_norm(nn.Conv2d(WIDTH, WIDTH, 1)), (5, 5),
    ),
    "unforeseen": (Unforeseen, (5, 5)),
}  # fmt: skip


def state_of(module: nn.Module) -> dict[str, Any]:
    """Buffers and plain attributes, copied."""
    own = vars(nn.Module())
    state = {name: x.clone() for name, x in module.named_buffers()}
    for path, part in module.named_modules():
        state |= {
            f"{path} {name}": copy.deepcopy(x.detach() if isinstance(x, Tensor) else x)
            for name, x in vars(part).items()
            if name not in own
        }
    return state


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(x, b[name]) for name, x in a.items())
    if isinstance(a, (list, tuple, deque)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def run(module: nn.Module, x: Tensor) -> list[Tensor]:
    """Output and gradients of a training pass."""
    x = x.clone().requires_grad_()
    y = module(x)
    return [y, *torch.autograd.grad(y.square().sum(), [x, *module.parameters()])]


@pytest.mark.parametrize("name", MODULES)
def test_a_kept_pass_computes_as_in_training_and_changes_nothing(name: str) -> None:
    build, size = MODULES[name]
    torch.manual_seed(0)
    module = nn.Sequential(build()).train()
    first, second = torch.randn(6, WIDTH, *size), torch.randn(6, WIDTH, *size) + 3
    module(first)  # on K
    before, buffers = state_of(module), list(module.buffers())
    versions = [b._version for b in buffers]
    expected = run(copy.deepcopy(module), second) if "spectral" not in name else None
    with running_state_kept(module):
        found = run(module, second)
    assert same(before, state_of(module))
    assert all(a is b for a, b in zip(buffers, module.buffers(), strict=True))
    assert versions == [b._version for b in buffers], "a graph may hold them"
    unkept = run(module, second)
    torch.testing.assert_close(found, expected or unkept, rtol=0, atol=0)
    assert not same(before, state_of(module)), "the state that must be kept is seen here"


def test_an_interrupted_pass_is_undone_and_parts_beside_are_left_alone() -> None:
    kept, beside = nn.BatchNorm1d(WIDTH), nn.BatchNorm1d(WIDTH)
    model = nn.ModuleDict({"kept": kept, "beside": beside})
    with pytest.raises(KeyError), running_state_kept(model, beside):  # noqa: PT012
        kept(torch.randn(6, WIDTH))
        beside(torch.randn(6, WIDTH))
        raise KeyError
    assert (int(kept.num_batches_tracked), int(beside.num_batches_tracked)) == (0, 1)


def test_self_distillation_keeps_the_heads_state() -> None:
    part = SelfDistillation(3, 64)
    model = nn.Sequential(nn.BatchNorm2d(64), Unforeseen(), part)
    maps = [torch.randn(1, 64, 4, 4)]
    targets = [{"boxes": torch.tensor([[4.0, 4.0, 30.0, 30.0]]), "labels": torch.tensor([2])}]
    model[1](model[0](maps[0]))
    before = state_of(model[:2])
    losses = part(maps, targets, (32, 32), lambda k: {"cls": model[:2](k[0]).mean()}, model)
    assert same(before, state_of(model[:2]))
    assert part.step == 1, "its own state is its own"
    sum(losses.values()).backward()
    assert model[0].weight.grad is not None


@pytest.mark.parametrize("name", ["sssd", "lgd", "labelenc_step1"])
def test_methods_leave_the_detector_as_plain_training_does(name: MethodName) -> None:
    states = []
    for method in ("plain", name):
        detector = small_detector()
        for part in list(detector.head.modules()):
            for index, layer in part.named_children():
                if isinstance(layer, nn.GroupNorm):
                    setattr(part, index, nn.BatchNorm2d(layer.num_channels))
        config = method_config(method, fusion=PaintedConfig())
        built = build_method(detector, config, ScheduleConfig()).train()
        sum(built(*images_and_targets(), 0).losses.values()).backward()
        states.append(dict(detector.named_buffers()))
    assert any("head" in key and int(x) == 5 for key, x in states[0].items() if "tracked" in key)
    assert same(*states)


def test_attach_leaves_the_box_head_of_faster_rcnn_v2_as_plain_training_does() -> None:
    states = []
    for attached in (False, True):
        torch.manual_seed(0)
        backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
        head = FastRCNNConvFCHead((256, 7, 7), [16] * 4, [32], norm_layer=nn.BatchNorm2d)
        predictor = FastRCNNPredictor(32, 6)
        parts = {"box_head": head, "box_predictor": predictor, "min_size": 64, "max_size": 96}
        model = FasterRCNN(backbone, **parts)
        if attached:
            attach(model, coefficient=2.0)
        torch.manual_seed(1)  # it samples
        sum(model(*images_and_targets()).values()).backward()
        states.append(dict(model.roi_heads.named_buffers()))
    assert sum("running_mean" in key for key in states[0]) == 4
    assert same(*states)
