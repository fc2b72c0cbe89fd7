"""Every detector on every backbone, trained by every method, on a batch with an empty image."""

import dataclasses
import itertools
from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import save_file

from sssd.detectors import build_detector
from sssd.detectors.settings import DetectorName
from sssd.methods import (
    LabelEncStep1Config,
    LabelEncStep2Config,
    LGDConfig,
    Method,
    MethodConfig,
    PaintedConfig,
    PlainConfig,
    RelationConfig,
    SSSDConfig,
    build_method,
)
from sssd.methods.settings import MethodName
from sssd.recipes import RECIPES
from sssd.schedules import ScheduleConfig
from tests.pairwise import pairwise_rows
from tests.small import NUM_CLASSES, images_and_targets, small_config

SCHEDULE = ScheduleConfig(iterations=10, milestones=(6,), warmup=0)
METHODS = {
    "plain": PlainConfig(),
    "sssd": SSSDConfig(),
    "lgd": LGDConfig(),
    "labelenc": LabelEncStep1Config(),  # and step 2 with what it leaves
}
OTHER_SETTINGS = {  # which see nothing of the backbone
    "sssd, relation": SSSDConfig(fusion=RelationConfig(), adapter="full"),
    "sssd, no adapter": SSSDConfig(adapter="none"),
    "lgd, painted": LGDConfig(fusion=PaintedConfig()),
}
DETECTORS = get_args(DetectorName)
COMBINATIONS = [
    # Basic blocks, bottlenecks, and no ResNet; other depths differ in nothing a method sees.
    *pairwise_rows(DETECTORS, ["resnet18", "resnet50", "efficientnet_lite0"], METHODS),
    *itertools.product(DETECTORS, ["resnet18"], OTHER_SETTINGS),
]


def build(config: MethodConfig, detector: str, backbone: str) -> Method:
    torch.manual_seed(0)
    student = build_detector(small_config(detector, backbone=backbone), NUM_CLASSES)
    return build_method(student, config, SCHEDULE).train()


def train_two_steps(method: Method) -> None:
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], 1e-3)
    for iteration in range(2):
        result = method(*images_and_targets(iteration), iteration)
        optimizer.zero_grad()
        loss = sum(result.losses.values())
        loss.backward()
        assert torch.isfinite(loss)
        trained = [(n, p) for n, p in method.named_parameters() if p.requires_grad]
        assert [n for n, p in trained if p.grad is None] == []
        assert all(torch.isfinite(p.grad).all() for _, p in trained)
        assert [n for n, p in trained if not p.grad.any()] == []
        optimizer.step()


def step_2(step_1: Method, folder: Path) -> MethodConfig:
    """Settings that name what a step 1 leaves."""
    path = folder / "step1.safetensors"
    save_file(dict(step_1.export()["step1"].state_dict()), path)
    return LabelEncStep2Config(step1_weights=path)


@pytest.mark.parametrize(
    ("detector", "backbone", "name"),
    [pytest.param(*c, marks=[pytest.mark.slow] * (c[1] == "resnet50")) for c in COMBINATIONS],
)
def test_two_steps_give_every_parameter_a_finite_gradient(
    detector: str, backbone: str, name: str, tmp_path: Path
) -> None:
    method = build((METHODS | OTHER_SETTINGS)[name], detector, backbone)
    train_two_steps(method)
    if name == "labelenc":
        second = build(step_2(method, tmp_path), detector, backbone)
        (tmp_path / "step1.safetensors").unlink()  # of up to 200 MB, which pytest would keep
        train_two_steps(second)


@pytest.mark.parametrize("name", METHODS)
def test_the_recipe_small_trains_at_its_own_size_and_layout(name: str) -> None:
    """On maps as large as real ones, torch's libraries run other code than on those of tests."""
    config = dataclasses.replace(RECIPES["small"]().detector, weights=None)
    method = build_method(build_detector(config, NUM_CLASSES), METHODS[name], SCHEDULE).train()
    train_two_steps(method.to(memory_format=torch.channels_last))


def test_no_method_is_left_out() -> None:
    assert {config.name for config in METHODS.values()} == {*get_args(MethodName)} - {
        "labelenc_step2"
    }
