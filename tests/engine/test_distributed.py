"""Processes started by torchrun train, together, what one process trains alone."""

import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sssd.data import read_coco
from sssd.engine import distributed
from sssd.engine.files import RunError
from sssd.engine.inference import evaluate_detector
from sssd.engine.log import read_metrics
from sssd.engine.settings import EngineConfig
from sssd.engine.state import checkpoints
from sssd.methods import MethodConfig, PlainConfig
from tests.engine import two_processes
from tests.scenes import write_scenes
from tests.tiny import tiny_detector
from tests.torchrun import ROOT, torchrun


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    write_scenes(folder, "train", count=6)
    write_scenes(folder, "val", count=5)
    process = torchrun(ROOT / "tests/engine/two_processes.py", folder)
    output, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    (folder / "output.txt").write_text(output)
    return folder


@pytest.fixture(scope="module")
def seen(folder: Path) -> list[dict[str, Any]]:
    """What each of the two processes saw."""
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "detector", "method"),
    [
        ("fcos", "fcos", PlainConfig()),
        ("retinanet", "retinanet", two_processes.RETINANET),
        ("accumulated", "retinanet", two_processes.RETINANET),
    ],
)
def test_two_processes_of_two_images_are_one_of_four(
    folder: Path, seen: list[dict[str, Any]], name: Any, detector: Any, method: MethodConfig
) -> None:
    alone = two_processes.run(folder, f"{name} alone", detector, method)
    assert_close(seen[0][name], two_processes.weights(alone))
    start = tiny_detector(detector).state_dict()
    moved = [name for name, value in seen[0][name].items() if not torch.equal(value, start[name])]
    assert len(moved) > len(start) // 2, "something was trained"
    rows, expected = (
        [row for row in read_metrics(folder / run) if "loss" in row]
        for run in (name, f"{name} alone")
    )
    for row, one in zip(rows, expected, strict=True):
        losses = {key: value for key, value in one.items() if key.startswith(("loss", "distance"))}
        assert {key: row[key] for key in losses} == pytest.approx(losses, rel=1e-4)
        assert row["learning_rate"] == one["learning_rate"]


@pytest.mark.slow
def test_both_processes_hold_the_same_weights(seen: list[dict[str, Any]]) -> None:
    for name in ("fcos", "retinanet", "accumulated", "straight", "resumed"):
        for key, value in seen[0][name].items():
            assert torch.equal(seen[1][name][key], value), f"{name}: {key}"


@pytest.mark.slow
def test_a_step_that_overflows_on_one_process_moves_neither(seen: list[dict[str, Any]]) -> None:
    """In fp16: the scale of the losses falls on both."""
    (scale, sums), other = seen[0]["fp16"], seen[1]["fp16"]
    assert (scale, sums) == other
    assert scale == two_processes.SCALE / 2
    assert sums[1] != sums[0]
    assert sums[2] == sums[1], "the step that overflowed"
    assert sums[3] != sums[2]


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_at_the_same_step(
    folder: Path, seen: list[dict[str, Any]]
) -> None:
    """And what goes on from there ends as if there had been no stop."""
    iterations = [row["iteration"] for row in read_metrics(folder / "stopped") if "loss" in row]
    assert iterations == [1, 2, 3, 4]
    for key, value in seen[0]["straight"].items():
        assert torch.equal(seen[0]["resumed"][key], value), key
    assert not torch.equal(
        torch.load(folder / "straight/checkpoints/00000004.pt")["random"][0]["cpu"],
        torch.load(folder / "straight/checkpoints/00000004.pt")["random"][1]["cpu"],
    )


@pytest.mark.slow
def test_evaluation_is_shared_and_gathered(folder: Path, seen: list[dict[str, Any]]) -> None:
    dataset = read_coco(folder / "annotations/instances_val.json")
    assert len(dataset) == 5
    expected = evaluate_detector(tiny_detector(seed=3), dataset, 2).numbers
    assert seen[0]["numbers"] == seen[1]["numbers"] == pytest.approx(expected)


@pytest.mark.slow
def test_a_process_without_boxes_gives_every_parameter_a_gradient(
    seen: list[dict[str, Any]],
) -> None:
    assert seen[0]["lacking"] == seen[1]["lacking"] == []


@pytest.mark.slow
def test_only_the_first_process_writes_and_talks(folder: Path, seen: list[dict[str, Any]]) -> None:
    assert [one["wrote"] for one in seen] == [True, False]
    assert seen[0]["ranks"] == [0, 1]
    assert seen[1]["ranks"] == []
    lines = (folder / "output.txt").read_text().splitlines()
    assert sum(line.startswith("1/4 ") for line in lines) == 7, "a line a run"


@pytest.mark.slow
def test_another_number_of_processes_is_refused(folder: Path, seen: object) -> None:
    with pytest.raises(RunError, match=r"processes is now 1 and was 2"):
        two_processes.run(folder, "fcos", "fcos", PlainConfig())


def test_a_batch_that_can_not_be_shared_names_the_way_out() -> None:
    config = EngineConfig(batch_size=16, accumulate=2)
    assert config.part_size(4) == 2
    with pytest.raises(
        ValueError, match=r"16.*6 equal parts \(processes: 3, --engine.accumulate 2\).* of 6"
    ):
        config.part_size(3)
    with pytest.raises(ValueError, match=r"accumulate is 0"):
        replace(config, accumulate=0)


def test_alone_nothing_is_communicated(monkeypatch: pytest.MonkeyPatch) -> None:
    def communicates(*arguments: object, **options: object) -> None:
        raise AssertionError("a process alone communicates")

    for name in ("init_process_group", "broadcast", "broadcast_object_list", "all_reduce",
                 "gather_object", "barrier"):  # fmt: skip
        monkeypatch.setattr(torch.distributed, name, communicates)
    model, numbers = torch.nn.BatchNorm1d(2), {"loss": 1.5, "other": -2.0}
    with distributed.process_group("cpu"):
        assert (distributed.rank(), distributed.world_size()) == (0, 1)
        assert distributed.is_first()
        assert distributed.from_first(lambda: "made") == "made"
        assert distributed.gather("a") == ["a"]
        assert distributed.mean(numbers) == numbers
        assert distributed.largest(7) == 7
        assert distributed.with_shared_gradients(model) is model
        with distributed.own_gradients(model):
            distributed.buffers_from_first(model)


@pytest.mark.slow
def test_torchrun_shares_a_batch_passes_a_signal_on_and_the_run_stops_in_order(
    tmp_path: Path,
) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    train, val = write_scenes(data, "train"), write_scenes(data, "val", count=3)
    process = torchrun(
        *("-m", "sssd.train", "small", "--data.train", train, "--data.val", val, "--out", run),
        *("--detector.min-size", "64", "--detector.max-size", "64", "--method.name", "plain"),
        *("--schedule.iterations", "100000", "--schedule.milestones", "1"),
        *("--schedule.warmup", "0", "--engine.workers", "1", "--engine.log-every", "1"),
        *("--engine.batch-size", "4", "--engine.accumulate", "2"),
    )
    until = time.monotonic() + 300
    while not read_metrics(run) and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=300)
    assert process.returncode != 0
    text = " ".join(output.split())
    said = "batch 4 = 2 processes x 2 parts x 1; learning rate 0.008 x 4/16 = 0.002"
    assert text.count(said) == text.count("; run in ") == 1
    said = "torchrun (with the same flags) -m sssd.train --resume --out"
    assert output.count(said) == 1, errors
    (checkpoint,) = checkpoints(run)
    assert int(checkpoint.stem) == read_metrics(run)[-1]["iteration"]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "1", "WORLD_SIZE": "2"}, "WORLD_SIZE is 2 and RANK 1, but torchrun did not"),
        ({"TORCHELASTIC_RUN_ID": "x", "LOCAL_RANK": "1"}, "cuda:0: all processes .* this GPU"),
    ],
)
def test_processes_that_would_not_share_the_work_are_refused(
    environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "choose_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=message), distributed.process_group("cuda:0"):
        pass
