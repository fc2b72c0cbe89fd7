"""A run that an error ends: named with the way out, and it goes on from its last whole step."""

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from sssd.data import DataError, DetectionDataset, read_coco
from sssd.engine import loop
from sssd.engine.files import RunError
from sssd.engine.log import read_metrics
from sssd.engine.loop import Trainer
from sssd.engine.memory import is_out_of_memory
from sssd.engine.settings import EngineConfig
from sssd.engine.state import checkpoints
from sssd.methods import LabelEncStep1Config, Method, build_method
from sssd.schedules import ScheduleConfig
from tests.scenes import write_scenes
from tests.tiny import QUIET, tiny_detector, train

SCHEDULE = ScheduleConfig(iterations=5, learning_rate=0.05, milestones=(4,), warmup=0)
CONFIG = EngineConfig(batch_size=4, workers=0, ema_decay=0.5, log_every=1, evaluate_every=0)
CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
ERRORS = [
    CUDA,
    MemoryError("Unable to allocate 3 GiB for an array"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory"
    ),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    return read_coco(write_scenes(tmp_path_factory.mktemp("data"), "train"))


def run(
    dataset: DetectionDataset, folder: Path, console: Console = QUIET, **changes: object
) -> Trainer:
    """LabelEnc's first step draws random numbers in every step."""
    method = build_method(tiny_detector(), LabelEncStep1Config(), SCHEDULE)
    config = replace(CONFIG, **changes)  # type: ignore[arg-type]
    return train(method, dataset, folder, config, SCHEDULE, console)


def failing(step: int, error: Exception) -> Callable:
    """Runs out of memory in the middle of a step, when it has drawn random numbers."""
    call = Method.__call__

    def forward(self: Method, images: list, targets: list, iteration: int) -> object:
        result = call(self, images, targets, iteration)
        if iteration == step:
            raise error
        return result

    return forward


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error)[:12])
def test_the_last_whole_step_is_saved_and_the_flag_is_named(
    error: Exception, dataset: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Method, "__call__", failing(3, error))
        with pytest.raises(RunError) as raised:
            run(dataset, tmp_path / "run")
    said = str(raised.value)
    assert "out of memory after iteration 3" in said
    assert (
        "Each process had 4 images at a time (--engine.batch-size 4, --engine.accumulate 1)" in said
    )
    assert re.search(
        r"Resume after iteration 3 with `.* --resume --out \S+ --engine.accumulate 2`", said
    )
    assert str(error) in said
    assert [path.stem for path in checkpoints(tmp_path / "run")] == ["00000003"]
    if error is not CUDA:
        return
    run(dataset, tmp_path / "run")  # on a larger machine, to the last bit
    run(dataset, tmp_path / "straight")
    states = [torch.load(checkpoints(tmp_path / n)[-1]) for n in ("run", "straight")]
    for name, value in states[0]["method"].items():
        assert torch.equal(states[1]["method"][name], value), name
    assert torch.equal(states[0]["random"][0]["cpu"], states[1]["random"][0]["cpu"])
    assert (tmp_path / "run/metrics.csv").exists(), "what was open is closed"


def test_whatever_ends_a_run_leaves_its_last_whole_step(
    dataset: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image that can no longer be read, a worker that was killed, a bug of the user's own."""
    console = Console(file=io.StringIO())
    monkeypatch.setattr(Method, "__call__", failing(3, DataError("1.png does not exist")))
    with pytest.raises(DataError, match=r"1.png does not exist"):
        run(dataset, tmp_path, console)
    assert [path.stem for path in checkpoints(tmp_path)] == ["00000003"]
    assert f"--resume --out {tmp_path} goes on after iteration 3" in console.file.getvalue()


def test_a_rescue_that_fails_does_not_hide_what_ended_the_run(
    dataset: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(*_: object) -> None:
        raise OSError("no space left on device")

    console = Console(file=io.StringIO())
    monkeypatch.setattr(Method, "__call__", failing(3, DataError("1.png does not exist")))
    monkeypatch.setattr(loop, "save_checkpoint", save)
    with pytest.raises(DataError, match=r"1.png does not exist"):
        run(dataset, tmp_path, console)
    assert "goes on" not in console.file.getvalue()


def test_a_run_that_diverged_leaves_no_checkpoint_of_it(
    dataset: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "numbers_of", lambda _: {"loss": float("nan")})
    with pytest.raises(RunError, match=r"diverged at or before iteration 1.*no checkpoint"):
        run(dataset, tmp_path)
    assert checkpoints(tmp_path) == []


def test_another_number_of_parts_sees_the_same_images(
    dataset: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Method, "__call__", failing(3, CUDA))
        with pytest.raises(RunError):
            run(dataset, tmp_path)
    seen = []
    call = Method.__call__
    monkeypatch.setattr(
        Method,
        "__call__",
        lambda self, images, *about: seen.append(images) or call(self, images, *about),
    )
    run(dataset, tmp_path, accumulate=2)
    parts, seen = seen, []
    run(dataset, tmp_path / "whole")
    assert [len(images) for images in parts] == [2, 2, 2, 2]
    whole = [image for images in seen[3:] for image in images]
    for one, other in zip([i for images in parts for i in images], whole, strict=True):
        assert torch.equal(one, other)


def test_weights_that_may_have_moved_in_part_are_not_saved(
    dataset: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, steps = torch.optim.SGD.step, []

    def moving(optimizer: torch.optim.SGD) -> None:
        steps.append(step(optimizer))
        if len(steps) == 3:
            raise CUDA

    monkeypatch.setattr(torch.optim.SGD, "step", moving)
    with pytest.raises(RunError, match=r"Start again with --engine.accumulate 2"):
        run(dataset, tmp_path)
    assert checkpoints(tmp_path) == []


def test_an_evaluation_that_fails_leaves_the_steps_before_it(
    dataset: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate(*_: object, **__: object) -> None:
        raise CUDA

    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate_detector", evaluate)
        with pytest.raises(RunError, match="Resume after iteration 3"):
            run(dataset, tmp_path, evaluate_every=3)
    run(dataset, tmp_path, evaluate_every=3, accumulate=4)
    assert [row["iteration"] for row in read_metrics(tmp_path) if "AP" in row] == [3, 5]


def test_where_an_image_at_a_time_is_too_much_they_must_be_smaller(
    dataset: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Method, "__call__", failing(2, CUDA))
    with pytest.raises(
        RunError, match=r"had 1 images at a time.* with a smaller --detector.max-size"
    ):
        run(dataset, tmp_path, accumulate=4)


def test_other_errors_are_what_they_are() -> None:
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    assert not is_out_of_memory(ValueError("out of memory"))
