"""Mixed precision: what stays fp32, and fp16's scaled losses."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.amp import GradScaler

from sssd.data import DetectionDataset, read_coco
from sssd.engine.device import autocast_dtype
from sssd.engine.log import read_metrics
from sssd.engine.loop import Trainer
from sssd.engine.settings import EngineConfig
from sssd.engine.state import RunError
from sssd.engine.step import TrainingStep
from sssd.methods import PlainConfig, SSSDConfig, build_method
from sssd.schedules import CoefficientConfig, ScheduleConfig
from tests.scenes import write_scenes
from tests.small import NUM_CLASSES, images_and_targets, method_config
from tests.tiny import tiny_detector, train

SCHEDULE = ScheduleConfig(iterations=4, learning_rate=0.02, milestones=(2,), warmup=0)
CONFIG = EngineConfig(
    batch_size=2, workers=0, log_every=1, checkpoint_every=2, evaluate_every=0, precision="fp16",
    clip_value=None, clip_norm=1.0,
)  # fmt: skip
SCALE = 1024.0
METHOD = SSSDConfig(coefficient=CoefficientConfig(step_factor=2.0))


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """But computed in fp32: a step in fp16 takes a CPU seconds; none overflows by itself."""
    monkeypatch.setattr(torch.amp, "GradScaler", partial(GradScaler, init_scale=SCALE))
    monkeypatch.setattr("sssd.engine.step.torch.autocast", lambda *_, enabled: nullcontext())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    return read_coco(write_scenes(tmp_path_factory.mktemp("data"), "train", count=4))


@pytest.mark.parametrize(
    ("capability", "auto"),
    [(None, None), ((6, 1), None), ((7, 5), torch.float16), ((8, 0), torch.bfloat16)],
)
def test_auto_is_what_the_device_computes_in(
    capability: tuple | None, auto: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old")
    device = torch.device("cuda" if capability else "cpu")
    assert autocast_dtype("auto", device) is auto
    assert autocast_dtype("fp32", device) is None
    assert autocast_dtype("fp16", device) is torch.float16
    if capability and capability < (8, 0):
        with pytest.raises(ValueError, match=r"--engine.precision is bf16, which Old does not"):
            autocast_dtype("bf16", device)
    else:
        assert autocast_dtype("bf16", device) is torch.bfloat16
    with pytest.raises(ValueError, match=r"--engine.precision is 'tf32'; it must be one of auto"):
        EngineConfig(precision="tf32")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "detector", "dtype"),
    [
        ("sssd", "fcos", torch.bfloat16),
        ("sssd", "fcos", torch.float16),
        ("lgd", "fasterrcnn", torch.bfloat16),
        ("labelenc_step1", "retinanet", torch.bfloat16),
    ],
)
def test_losses_are_fp32_and_near_those_of_fp32(
    name: str, detector: str, dtype: torch.dtype
) -> None:
    built = tiny_detector(detector, NUM_CLASSES)  # type: ignore[arg-type]
    method = build_method(built, method_config(name), SCHEDULE).train()
    losses = []
    for enabled in (False, True):
        torch.manual_seed(3)
        with torch.no_grad(), torch.autocast("cpu", dtype, enabled=enabled):
            losses.append(method(*images_and_targets(), 0).losses)
    exact, found = losses
    assert {loss.dtype for loss in found.values()} == {torch.float32}
    for loss, value in exact.items():
        if detector != "fasterrcnn":  # whose proposals are other ones
            assert found[loss].item() == pytest.approx(value.item(), rel=0.1, abs=0.02), loss


@contextmanager
def overflowing(at: set[int], scales: list[float]) -> Iterator[None]:
    """Makes gradients infinite in some steps, as fp16 does."""
    call = TrainingStep._backward

    def backward(self: TrainingStep, images: list, targets: list, iteration: int) -> object:
        result = call(self, images, targets, iteration)
        scales.append(self.scaler.get_scale())
        if iteration in at:
            next(p for p in self.method.parameters() if p.grad is not None).grad[0] = float("inf")
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingStep, "_backward", backward)
        yield


def run_to(dataset: DetectionDataset, run: Path, iterations: int = 4) -> Trainer:
    schedule = replace(SCHEDULE, iterations=iterations)
    method = build_method(tiny_detector(), METHOD, schedule)
    return train(method, dataset, run, CONFIG, schedule)


@pytest.mark.usefixtures("scaled")
def test_a_step_that_overflows_moves_nothing_and_delays_nothing(
    dataset: DetectionDataset, tmp_path: Path
) -> None:
    scales: list[float] = []
    before = {}
    call = TrainingStep.__call__

    def noted(self: TrainingStep, batches: Iterator, iteration: int) -> object:
        before[iteration] = [p.detach().clone() for p in self.method.parameters()]
        return call(self, batches, iteration)

    with (
        overflowing({1}, scales),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(TrainingStep, "__call__", noted)
        straight = run_to(dataset, tmp_path / "straight")
        steps = dict(before)
        run_to(dataset, tmp_path / "halves", 2)
        assert straight.train_step.scaler.get_scale() == scales[0] / 2
        resumed = run_to(dataset, tmp_path / "halves")  # the scale goes on
    assert scales[:4] == [SCALE, SCALE, SCALE / 2, SCALE / 2]
    assert scales[4:] == scales[:4]
    assert all(torch.equal(a, b) for a, b in zip(steps[1], steps[2], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(steps[2], steps[3], strict=True))
    for a, b in zip(straight.method.parameters(), resumed.method.parameters(), strict=True):
        assert torch.equal(a, b)
    rows = [row for row in read_metrics(tmp_path / "straight") if "loss" in row]
    assert [row["lambda"] for row in rows][-2:] == [2.0, 2.0], "by the iteration"
    base = SCHEDULE.scaled_learning_rate(2)
    assert [row["learning_rate"] for row in rows][-2:] == pytest.approx([base / 10] * 2)


@pytest.mark.usefixtures("scaled")
def test_gradients_are_clipped_at_their_own_size(dataset: DetectionDataset, tmp_path: Path) -> None:
    """Scaled by 1024 every one would be clipped."""
    method = build_method(tiny_detector(), PlainConfig(), SCHEDULE)
    step = TrainingStep(method, replace(CONFIG, clip_norm=1e3), SCHEDULE)
    images, targets = images_and_targets()
    targets = [{**t, "labels": t["labels"].clamp(max=1)} for t in targets]
    step(iter([(images, targets)]), 0)
    exact = TrainingStep(
        build_method(tiny_detector(), PlainConfig(), SCHEDULE),
        replace(CONFIG, clip_norm=1e3, precision="fp32"), SCHEDULE,
    )  # fmt: skip
    exact(iter([(images, targets)]), 0)
    norms = [
        sum(float(p.grad.norm()) for p in one.method.parameters() if p.grad is not None)
        for one in (step, exact)
    ]
    assert norms[0] == pytest.approx(norms[1], rel=0.1)


@pytest.mark.usefixtures("scaled")
def test_overflow_without_end_is_told(dataset: DetectionDataset, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.amp, "GradScaler", partial(GradScaler, init_scale=2.0))
        with overflowing({0, 1, 2, 3}, []):
            run_to(dataset, tmp_path / "first", 1)  # it may fall
            method = build_method(tiny_detector(), PlainConfig(), SCHEDULE)
            with pytest.raises(RunError, match=r"diverged.*--engine.precision bf16 or fp32"):
                nans(method, dataset, tmp_path / "second")


def nans(method: object, dataset: DetectionDataset, run: Path) -> None:
    """A run whose losses are no numbers."""
    from sssd.methods import Method, StepResult

    def forward(self: Method, *args: object) -> StepResult:
        weight = next(p for p in self.parameters() if p.requires_grad)
        return StepResult({"detection/classification": weight.sum() * float("nan")}, {})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Method, "__call__", forward)
        train(method, dataset, run, CONFIG, SCHEDULE)  # type: ignore[arg-type]
