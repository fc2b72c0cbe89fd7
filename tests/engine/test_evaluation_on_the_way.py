"""What evaluates while a run trains, and what gives the numbers of its end."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sssd.data import DetectionDataset, evaluation_loader, read_coco
from sssd.engine import inference
from sssd.engine.log import read_metrics
from sssd.engine.settings import EngineConfig
from sssd.methods import PlainConfig, build_method
from sssd.schedules import ScheduleConfig
from tests.scenes import write_scenes
from tests.small import small_detector
from tests.tiny import tiny_detector, train

CONFIG = EngineConfig(batch_size=2, workers=0, log_every=1, evaluate_every=2)
SCHEDULE = ScheduleConfig(iterations=5, learning_rate=1e-4, milestones=(4,), warmup=0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    return read_coco(write_scenes(tmp_path_factory.mktemp("data"), "train"))


def run(dataset: DetectionDataset, folder: Path, config: EngineConfig) -> list[dict[str, Any]]:
    detector = tiny_detector()
    with torch.no_grad():  # sure of itself, and of boxes of some strides: some fit
        detector.model.head.classification_head.cls_logits.bias += 5
        detector.model.head.regression_head.bbox_reg.bias.fill_(1.0)
    train(build_method(detector, PlainConfig(), SCHEDULE), dataset, folder, config, SCHEDULE)
    return [row for row in read_metrics(folder) if "AP" in row]


def test_the_fast_engine_gives_the_same_rows_and_leaves_the_end_to_pycocotools(
    dataset: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = run(dataset, tmp_path / "slow", replace(CONFIG, evaluate_with="pycocotools"))
    used = []
    accumulated = inference.accumulated

    def recorded(truth: Any, found: Any, engine: str) -> Any:
        used.append(engine)
        return accumulated(truth, found, engine)

    monkeypatch.setattr(inference, "accumulated", recorded)
    fast = run(dataset, tmp_path / "fast", CONFIG)
    assert used == ["faster-coco-eval", "faster-coco-eval", "pycocotools"]
    assert [row["iteration"] for row in fast] == [2, 4, 5]
    for one, other in zip(slow, fast, strict=True):
        assert one == pytest.approx(other, rel=0, abs=5e-16)
    assert any(row["AR100"] > 0 for row in slow)


def test_a_detector_is_asked_in_evaluation_mode_and_given_back_as_it_was(
    dataset: DetectionDataset,
) -> None:
    detector = small_detector()
    before = {name: value.clone() for name, value in detector.named_buffers()}
    found, _ = inference.detect(detector, evaluation_loader(dataset, 2))
    assert detector.training
    assert all(torch.equal(value, before[name]) for name, value in detector.named_buffers())
    again, _ = inference.detect(detector.eval(), evaluation_loader(dataset, 2))
    assert all(torch.equal(found[i]["boxes"], again[i]["boxes"]) for i in again)
    assert not detector.training


def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    EngineConfig().require_packages()
    with pytest.raises(ImportError, match=r"--engine\.loggers wandb .*sssd\[wandb\]"):
        EngineConfig(loggers=("wandb",)).require_packages()
