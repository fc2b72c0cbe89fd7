"""What no loss trains in a step has no gradient in it, so that the optimizer leaves it alone."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sssd.data import DetectionDataset, read_coco
from sssd.engine.settings import EngineConfig
from sssd.methods import (
    LabelEncStep1Config,
    LGDConfig,
    Method,
    MethodConfig,
    PaintedConfig,
    PlainConfig,
    SSSDConfig,
    build_method,
)
from sssd.schedules import CoefficientConfig, ScheduleConfig
from tests.scenes import write_scenes
from tests.tiny import tiny_detector, train


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    return read_coco(write_scenes(tmp_path_factory.mktemp("data"), "train"))


def run(
    dataset: DetectionDataset,
    folder: Path,
    config: MethodConfig,
    iterations: int,
    watch: Callable[[Method, torch.optim.Optimizer], Callable[[], None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Trains by AdamW. Before each of its steps `watch` is called, and what it returns after it."""
    schedule = ScheduleConfig(iterations=iterations, milestones=(), warmup=0)
    method = build_method(tiny_detector("retinanet"), config, schedule)
    step = torch.optim.AdamW.step

    def watched(self: torch.optim.AdamW, *arguments: object) -> object:
        after = watch(method, self)
        result = step(self, *arguments)
        after()
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    engine = EngineConfig(batch_size=2, workers=0, optimizer="adamw", weight_decay=0.5)
    train(method, dataset, folder, engine, schedule)


def test_the_steps_after_the_thaw_are_those_of_a_fresh_adamw(
    dataset: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen, steps = 6, 20
    rates, gradients, weights = [], [], []

    def watch(method: Method, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        parameters = list(method.detector.backbone.parameters())
        rates.append(optimizer.param_groups[0]["lr"])
        gradients.append([None if p.grad is None else p.grad.clone() for p in parameters])
        return lambda: weights.append([p.detach().clone() for p in parameters])

    config = SSSDConfig(frozen_backbone=frozen)
    run(dataset, tmp_path, config, frozen + steps, watch, monkeypatch)
    monkeypatch.undo()
    assert all(g is None for step in gradients[:frozen] for g in step)
    fresh = [torch.nn.Parameter(w.clone()) for w in weights[frozen - 1]]
    optimizer = torch.optim.AdamW(fresh, weight_decay=0.5)
    for step in range(frozen, frozen + steps):
        optimizer.param_groups[0]["lr"] = rates[step]
        for parameter, gradient in zip(fresh, gradients[step], strict=True):
            parameter.grad = gradient
        optimizer.step()
        for parameter, weight in zip(fresh, weights[step], strict=True):
            assert torch.equal(parameter, weight), f"step {step - frozen + 1} after the thaw"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            SSSDConfig(teacher_every=2, frozen_backbone=1),
            ["backbone fusion", "", "fusion", ""],
        ),
        (
            LGDConfig(coefficient=CoefficientConfig(start=1, stop=2), fusion=PaintedConfig()),
            ["", "", "fusion adapter", "fusion adapter"],
        ),
        (LabelEncStep1Config(coefficient=CoefficientConfig(start=2)), ["adapter"] * 2 + [""] * 2),
        (SSSDConfig(coefficient=CoefficientConfig(steps={1: 0.0})), ["", *["adapter"] * 3]),
        (PlainConfig(), [""] * 4),
    ],
)
def test_parts_without_gradient(
    config: MethodConfig,
    expected: list[str],
    dataset: DetectionDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []

    def watch(method: Method, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        parts = {"backbone": method.detector.backbone}
        for held in (method, getattr(method, "distillation", None)):
            parts |= {n: getattr(held, n) for n in ("fusion", "adapter") if hasattr(held, n)}
        resting = [n for n, m in parts.items() if all(p.grad is None for p in m.parameters())]
        lacking = {id(p) for group in optimizer.param_groups for p in group["params"]
                   if p.grad is None}  # fmt: skip
        rested = {id(p) for name in resting for p in parts[name].parameters()}
        assert lacking == rested, "no part rests in parts"
        seen.append(" ".join(resting))
        return lambda: None

    run(dataset, tmp_path, config, 4, watch, monkeypatch)
    assert seen == expected
