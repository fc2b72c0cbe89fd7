"""A compiled backbone trains what it would train by itself, and nothing else changes."""

import copy
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sssd.data import read_coco
from sssd.detectors import Detector
from sssd.engine.compiled import compiled
from sssd.engine.log import read_metrics
from sssd.engine.loop import train
from sssd.engine.settings import EngineConfig
from sssd.methods import SSSDConfig, build_method
from sssd.methods.gradients import without_gradient
from sssd.schedules import ScheduleConfig
from tests.scenes import write_scenes
from tests.small import small_detector
from tests.tiny import tiny_detector

BACKEND = "aot_eager"  # traces and differentiates as inductor does, in a second
SIZES = ((64, 64), (64, 96), (96, 64))


@pytest.fixture(autouse=True)
def _forget_what_was_compiled() -> None:
    torch.compiler.reset()


def gradients(detector: Detector, size: tuple[int, int], frozen: bool = False) -> list[Tensor]:
    """Gradients of some loss on the pyramid's maps, in the order of the parameters."""
    torch.manual_seed(1)
    batch = detector.prepare([torch.rand(3, *size), torch.rand(3, *size)])
    detector.zero_grad()
    with without_gradient(detector.backbone) if frozen else nullcontext():
        maps = detector.maps(batch)
    sum(m.square().mean() for m in maps).backward()
    part = detector.model.backbone
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in part.parameters()]


def test_gradients_are_those_of_the_module_at_every_size_and_when_a_hook_comes_and_goes() -> None:
    detector = tiny_detector().train()
    steps = [(SIZES[0], True), (SIZES[0], False), *((s, False) for s in SIZES), (SIZES[1], True)]
    copied = copy.deepcopy(detector)
    with compiled(detector.backbone, True, BACKEND):
        for size, frozen in steps:
            found = gradients(detector, size, frozen)
            for ours, theirs in zip(found, gradients(copied, size, frozen), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
            body = list(detector.backbone.parameters())
            assert all(p.grad is not None for p in body)
            assert any(p.grad.any() for p in body) != frozen


def test_only_training_is_compiled_names_stay_and_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = small_detector()
    names, calls = list(detector.state_dict()), []

    def compile_counting(function: object, backend: str) -> object:
        return lambda *inputs: calls.append(backend) or function(*inputs)  # type: ignore[operator]

    monkeypatch.setattr(torch, "compile", compile_counting)
    image = torch.rand(3, 64, 64)
    with compiled(detector.backbone, True):
        detector.maps(detector.train().prepare([image]))
        assert calls == ["inductor"]
        detector.eval()([image])
        assert calls == ["inductor"]
        assert list(detector.state_dict()) == names
    detector.maps(detector.train().prepare([image]))
    assert calls == ["inductor"]
    assert "forward" not in vars(detector.backbone)


def test_a_compiled_run_ends_like_one_that_is_not(tmp_path: Path) -> None:
    dataset = read_coco(write_scenes(tmp_path / "data", "train"))
    schedule = ScheduleConfig(iterations=3, learning_rate=0.01, milestones=(2,), warmup=0)
    weights, losses = [], []
    for compile_backbone in (False, True):
        detector = tiny_detector()
        method = build_method(detector, SSSDConfig(), schedule)
        engine = EngineConfig(
            batch_size=2, workers=0, ema_decay=0.5, log_every=1, compile_backbone=compile_backbone
        )
        run = tmp_path / f"run{compile_backbone}"
        outcome = train(method, dataset, dataset, run=run, config=engine, schedule=schedule)
        weights.append(outcome.detector.state_dict())
        losses.append([row["loss"] for row in read_metrics(run) if "loss" in row])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert weights[1].keys() == weights[0].keys() == tiny_detector().state_dict().keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-5, msg=name)
