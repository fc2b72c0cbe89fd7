"""The loop: runs repeat, resume where they stopped, and refuse what would be another run."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from sssd.data import DetectionDataset, read_coco
from sssd.detectors import build_detector
from sssd.engine.log import read_metrics
from sssd.engine.loop import Outcome, choose_device, train
from sssd.engine.settings import EngineConfig
from sssd.engine.state import RunError, checkpoints
from sssd.methods import FusionConfig, Method, MethodConfig, build_method
from sssd.schedules import ScheduleConfig
from tests.scenes import write_scenes
from tests.small import small_config

SCHEDULE = ScheduleConfig(iterations=6, learning_rate=0.05, milestones=(4,), warmup=2)
CONFIG = EngineConfig(batch_size=2, workers=0, ema_decay=0.5, log_every=1, checkpoint_every=2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    return read_coco(write_scenes(tmp_path_factory.mktemp("data"), "train"))


def build(schedule: ScheduleConfig) -> Method:
    torch.manual_seed(0)
    config = MethodConfig(name="sssd", fusion=FusionConfig(name="heatmap"))
    return build_method(build_detector(small_config(), 2), config, schedule)


def run_to(
    dataset: DetectionDataset, run: Path, iterations: int = 6, config: EngineConfig = CONFIG
) -> Outcome:
    schedule = replace(SCHEDULE, iterations=iterations)
    quiet = Console(file=open(os.devnull, "w"))  # noqa: SIM115
    return train(
        build(schedule), dataset, dataset, run=run, config=config, schedule=schedule, console=quiet
    )


def weights(outcome: Outcome) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in outcome.detector.state_dict().items()}


def without_speed(run: Path) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in read_metrics(run)]


def test_a_resumed_run_ends_like_one_that_was_not_interrupted(
    dataset: DetectionDataset, tmp_path: Path
) -> None:
    straight = run_to(dataset, tmp_path / "straight")
    run_to(dataset, tmp_path / "halves", iterations=3)
    torch.manual_seed(99)  # whatever random state the second process begins with
    resumed = run_to(dataset, tmp_path / "halves")
    assert resumed.numbers == straight.numbers
    for name, value in weights(straight).items():
        assert torch.equal(weights(resumed)[name], value), name
    rows = [row for row in without_speed(tmp_path / "halves") if "AP" not in row]
    assert rows == [row for row in without_speed(tmp_path / "straight") if "AP" not in row]


def test_a_signal_saves_and_leaves(
    dataset: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method_forward = Method.__call__

    def forward(self: Method, images: list, targets: list, iteration: int) -> object:
        if iteration == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return method_forward(self, images, targets, iteration)

    monkeypatch.setattr(Method, "__call__", forward)
    outcome = run_to(dataset, tmp_path)
    assert outcome.signal == signal.SIGTERM
    assert outcome.numbers is None
    assert checkpoints(tmp_path)[-1].name == "00000003.pt"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_finished_run_is_only_evaluated_again(dataset: DetectionDataset, tmp_path: Path) -> None:
    first = run_to(dataset, tmp_path)
    again = run_to(dataset, tmp_path)
    assert again.numbers == first.numbers


@pytest.mark.parametrize("changes", [{"batch_size": 3}, {"seed": 1}])
def test_resume_refuses_other_settings_and_shows_both(
    dataset: DetectionDataset, tmp_path: Path, changes: dict
) -> None:
    run_to(dataset, tmp_path, iterations=2)
    ((name, value),) = changes.items()
    was = getattr(CONFIG, name)
    with pytest.raises(RunError, match=rf"{name} is {value} now and was {was}"):
        run_to(dataset, tmp_path, config=replace(CONFIG, **changes))


def test_resume_refuses_other_data(dataset: DetectionDataset, tmp_path: Path) -> None:
    run_to(dataset, tmp_path, iterations=2)
    other = dataset.subset([0, 1, 2, 3])
    with pytest.raises(RunError, match=rf"data is '{other.fingerprint}' now"):
        run_to(other, tmp_path)


def test_a_loss_that_is_not_finite_ends_the_run(
    dataset: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(self: Method, *args: object) -> object:
        weight = next(p for p in self.parameters() if p.requires_grad)
        from sssd.methods import StepResult

        return StepResult({"detection/classification": weight.sum() * float("nan")}, {})

    monkeypatch.setattr(Method, "__call__", forward)
    with pytest.raises(RunError, match=r"diverged at or before iteration 1.*nan"):
        run_to(dataset, tmp_path)
    assert checkpoints(tmp_path) == []


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"device 'nonsense'"):
        choose_device("nonsense")


def test_learning_improves_on_what_it_has_seen(dataset: DetectionDataset, tmp_path: Path) -> None:
    run_to(dataset, tmp_path, iterations=30, config=replace(CONFIG, clip_norm=5.0))
    losses = [row["loss"] for row in read_metrics(tmp_path) if "loss" in row]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
