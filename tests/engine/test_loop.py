"""The loop: runs repeat, resume where they stopped, and refuse what would be another run."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from sssd.data import DetectionDataset, read_coco
from sssd.detectors.settings import DetectorName
from sssd.engine.distributed import choose_device
from sssd.engine.files import RunError
from sssd.engine.log import read_metrics
from sssd.engine.loop import Trainer
from sssd.engine.settings import EngineConfig
from sssd.engine.state import checkpoints
from sssd.engine.step import TrainingStep
from sssd.methods import Method, MethodConfig, PlainConfig, SSSDConfig, build_method
from sssd.methods.gradients import GradientShares
from sssd.schedules import CoefficientConfig, ScheduleConfig
from tests.scenes import write_scenes
from tests.tiny import tiny_detector, train

SCHEDULE = ScheduleConfig(iterations=6, learning_rate=0.05, milestones=(4,), warmup=2)
CONFIG = EngineConfig(batch_size=2, workers=0, ema_decay=0.5, log_every=1, checkpoint_every=2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    return read_coco(write_scenes(tmp_path_factory.mktemp("data"), "train"))


def build(schedule: ScheduleConfig, detector: DetectorName = "fcos") -> Method:
    return build_method(tiny_detector(detector), SSSDConfig(), schedule)


def run_to(
    dataset: DetectionDataset,
    run: Path,
    iterations: int = 6,
    config: EngineConfig = CONFIG,
    detector: DetectorName = "fcos",
) -> Trainer:
    schedule = replace(SCHEDULE, iterations=iterations)
    return train(build(schedule, detector), dataset, run, config, schedule)


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.detector.state_dict().items()}


def without_speed(run: Path) -> list[dict]:
    own = ("images_per_second", "memory_gb")
    return [{k: v for k, v in row.items() if k not in own} for row in read_metrics(run)]


def test_a_resumed_run_ends_like_one_that_was_not_interrupted(
    dataset: DetectionDataset, tmp_path: Path
) -> None:
    """Of a detector that draws random numbers: Faster R-CNN samples its boxes."""
    straight = run_to(dataset, tmp_path / "straight", detector="fasterrcnn")
    run_to(dataset, tmp_path / "halves", iterations=3, detector="fasterrcnn")
    torch.manual_seed(99)  # whatever random state the second process begins with
    resumed = run_to(dataset, tmp_path / "halves", detector="fasterrcnn")
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
    trainer = run_to(dataset, tmp_path)
    assert trainer.signal == signal.SIGTERM
    assert trainer.numbers is None
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
    flag, was = f"--engine.{name.replace('_', '-')}", getattr(CONFIG, name)
    with pytest.raises(RunError, match=rf"{flag} is now {value} and was {was}"):
        run_to(dataset, tmp_path, config=replace(CONFIG, **changes))


def test_resume_refuses_other_data(dataset: DetectionDataset, tmp_path: Path) -> None:
    run_to(dataset, tmp_path, iterations=2)
    other = dataset.subset([0, 1, 2, 3])
    with pytest.raises(RunError, match=rf"training data's fingerprint is now {other.fingerprint}"):
        run_to(other, tmp_path)


def test_resume_refuses_another_detector(dataset: DetectionDataset, tmp_path: Path) -> None:
    tiny_run(dataset, tmp_path, CONFIG, PlainConfig(), 2, "retinanet")
    with pytest.raises(
        RunError, match=r"the method in its checkpoint does not fit .* another --out"
    ):
        tiny_run(dataset, tmp_path, CONFIG, PlainConfig(), 4, "fcos")


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


def test_weights_that_are_not_finite_are_not_saved(
    dataset: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method_forward = Method.__call__

    def forward(self: Method, images: list, targets: list, iteration: int) -> object:
        result = method_forward(self, images, targets, iteration)
        if iteration == 3:  # a finite loss, whose step breaks the weights
            next(self.detector.head.parameters()).register_hook(lambda g: g * float("inf"))
        return result

    monkeypatch.setattr(Method, "__call__", forward)
    config = replace(CONFIG, log_every=3, clip_value=None)
    with pytest.raises(RunError, match=r"iteration 4: detector\.\S+ is not finite"):
        tiny_run(dataset, tmp_path, config, PlainConfig())
    assert [path.name for path in checkpoints(tmp_path)] == ["00000002.pt"]


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"device 'nonsense'"):
        choose_device("nonsense")


def test_a_gpu_that_is_trained_on_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class CurrentError(Exception):
        """Says which device is made the current one."""

    def set_device(device: torch.device) -> None:
        raise CurrentError(str(device))

    monkeypatch.setattr(torch.cuda, "set_device", set_device)
    monkeypatch.setattr("sssd.engine.step.choose_device", torch.device)
    config = replace(CONFIG, device="cuda:1")
    with pytest.raises(CurrentError, match="cuda:1"):
        TrainingStep(nn.Identity(), config, SCHEDULE)  # type: ignore[arg-type]


def test_learning_improves_on_what_it_has_seen(dataset: DetectionDataset, tmp_path: Path) -> None:
    run_to(dataset, tmp_path, iterations=30, config=replace(CONFIG, clip_norm=5.0))
    losses = [row["loss"] for row in read_metrics(tmp_path) if "loss" in row]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def tiny_run(
    dataset: DetectionDataset,
    run: Path,
    config: EngineConfig,
    method: MethodConfig,
    iterations: int = 4,
    detector: DetectorName = "retinanet",
) -> Trainer:
    schedule = replace(SCHEDULE, iterations=iterations)
    built = build_method(tiny_detector(detector), method, schedule)
    return train(built, dataset, run, config, schedule)


def test_accumulated_parts_are_one_large_batch(dataset: DetectionDataset, tmp_path: Path) -> None:
    method = SSSDConfig(
        root="row",
        coefficient=CoefficientConfig(step_factor=2.0, start=1),
    )
    whole = replace(CONFIG, batch_size=4, clip_norm=1.0)
    parts = replace(whole, accumulate=2)
    expected = tiny_run(dataset, tmp_path / "whole", whole, method)
    found = tiny_run(dataset, tmp_path / "parts", parts, method)
    for name, value in weights(expected).items():
        torch.testing.assert_close(weights(found)[name], value, rtol=1e-4, atol=1e-6)
    start = tiny_detector("retinanet").state_dict()
    assert any(not torch.allclose(v, start[n], rtol=1e-3) for n, v in weights(found).items())
    rows, one = (
        [row for row in without_speed(tmp_path / name) if "loss" in row]
        for name in ("parts", "whole")
    )
    assert [row["lambda"] for row in rows] == [row["lambda"] for row in one]
    assert [row["learning_rate"] for row in rows] == [row["learning_rate"] for row in one]
    assert [r["loss"] for r in rows] == pytest.approx([r["loss"] for r in one], rel=1e-5)


def test_an_accumulating_run_goes_on_behind_the_images_it_has_seen(
    dataset: DetectionDataset, tmp_path: Path
) -> None:
    config, method = replace(CONFIG, accumulate=2), PlainConfig()
    straight = tiny_run(dataset, tmp_path / "straight", config, method)
    tiny_run(dataset, tmp_path / "halves", config, method, iterations=2)
    resumed = tiny_run(dataset, tmp_path / "halves", config, method)
    for name, value in weights(straight).items():
        assert torch.equal(weights(resumed)[name], value), name


def test_deterministic_runs_repeat_to_the_last_bit_on_several_threads(
    dataset: DetectionDataset, tmp_path: Path
) -> None:
    config = replace(CONFIG, deterministic=True, batch_size=4)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        runs = [
            tiny_run(dataset, tmp_path / name, config, SSSDConfig(), 2, detector="fcos")
            for name in ("first", "second")
        ]
    finally:
        torch.set_num_threads(threads)
    first, second = map(weights, runs)
    for name, value in first.items():
        assert torch.equal(second[name], value), name
    assert without_speed(tmp_path / "first") == without_speed(tmp_path / "second")
    assert not torch.are_deterministic_algorithms_enabled()


def test_deterministic_names_an_operator_that_can_not_be(
    dataset: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(self: Method, *args: object) -> object:
        return torch.zeros(2).put_(torch.tensor([0]), torch.ones(1))

    monkeypatch.setattr(Method, "__call__", forward)
    config = replace(CONFIG, deterministic=True)
    with pytest.raises(RuntimeError, match=r"put_.*does not have a deterministic implementation"):
        tiny_run(dataset, tmp_path, config, SSSDConfig())
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_frozen_backbone_rests_whatever_weight_decay_and_momentum_do(
    dataset: DetectionDataset, tmp_path: Path
) -> None:
    method = SSSDConfig(frozen_backbone=2)
    config = replace(CONFIG, weight_decay=0.5, ema_decay=None)
    start = tiny_detector("retinanet").backbone.state_dict()
    for iterations, moved in ((2, False), (3, True)):
        run = tmp_path / str(iterations)
        trainer = tiny_run(dataset, run, config, method, iterations=iterations)
        weights = trainer.detector.backbone.state_dict()
        assert any(not torch.equal(value, start[name]) for name, value in weights.items()) == moved
        rows = [row for row in read_metrics(run) if "loss" in row]
        assert all(row["learning_rate"] > 0 for row in rows), "the head's own"


def test_gradient_norms_are_measured_where_they_are_logged(
    dataset: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []
    measure = GradientShares._measure
    monkeypatch.setattr(GradientShares, "_measure", lambda *a: measured.append(a[1]) or measure(*a))
    method = SSSDConfig()
    every = tiny_run(dataset, tmp_path / "every", CONFIG, method)
    in_all = len(measured)
    seldom = tiny_run(dataset, tmp_path / "seldom", replace(CONFIG, log_every=2), method)
    assert len(measured) - in_all == in_all // 2 > 0
    for name, value in weights(every).items():
        assert torch.equal(weights(seldom)[name], value), name
    rows = [r for r in without_speed(tmp_path / "every") if r["iteration"] % 2 == 0]
    assert without_speed(tmp_path / "seldom") == rows
    assert all(row["gradient/detection/level0"] > 0 for row in rows if "loss" in row)


def test_an_evaluation_that_a_kill_cut_short_is_made_up_for(
    dataset: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, evaluate_every=2)
    tiny_run(dataset, tmp_path / "straight", config, PlainConfig())

    def killed(*args: object, **settings: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sssd.engine.loop.evaluate_detector", killed)
        with pytest.raises(KeyboardInterrupt):
            tiny_run(dataset, tmp_path / "cut", config, PlainConfig())
    tiny_run(dataset, tmp_path / "cut", config, PlainConfig())
    assert without_speed(tmp_path / "cut") == without_speed(tmp_path / "straight")
    tiny_run(dataset, tmp_path / "cut", config, PlainConfig())
    assert without_speed(tmp_path / "cut") == without_speed(tmp_path / "straight"), "once"


def test_what_an_evaluation_may_cost_is_saved_before(
    dataset: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[list[str]] = []
    evaluate = Trainer.evaluate

    def seen(trainer: Trainer) -> None:
        saved.append([path.stem for path in checkpoints(tmp_path)])
        evaluate(trainer)

    monkeypatch.setattr(Trainer, "evaluate", seen)
    run_to(dataset, tmp_path, 4, replace(CONFIG, checkpoint_every=1000, evaluate_every=3))
    assert saved == [["00000003"], ["00000003", "00000004"]]
