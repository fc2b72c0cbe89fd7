"""A worker that the system kills is named by the image it was at."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest

from sssd.data import (
    DetectionDataset,
    WorkerKilled,
    dataset,
    evaluation_loader,
    read_coco,
    training_loader,
)
from sssd.data.workers import end_with
from tests.scenes import write_scenes

ROOT = Path(__file__).resolve().parents[2]
LETHAL = 3  # number of the image


@pytest.fixture
def scenes(tmp_path: Path) -> DetectionDataset:
    return read_coco(write_scenes(tmp_path, "train", count=6))


def kill_when_opened(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    read_image = dataset.read_image

    def lethal(path: str, *rest: object) -> object:
        if Path(path).stem == str(LETHAL):
            os.kill(os.getpid(), number)
        return read_image(path, *rest)

    monkeypatch.setattr(dataset, "read_image", lethal)


def expected(scenes: DetectionDataset) -> str:
    (index,) = [i for i, p in enumerate(scenes.image_paths) if Path(p).stem == str(LETHAL)]
    width, height = scenes.sizes[index]
    name, image_id = scenes.image_path(index), scenes.image_id(index)
    return f"the last image it opened is {name} (image {image_id!r}, {width} x {height})"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS])
@pytest.mark.parametrize("workers", [1, 2])
def test_training_names_the_image(
    workers: int,
    number: signal.Signals,
    scenes: DetectionDataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kill_when_opened(monkeypatch, number)
    with pytest.raises(WorkerKilled, match="fewer workers or smaller images") as raised:
        for _, _ in zip(
            range(9), training_loader(scenes, 2, seed=0, workers=workers), strict=False
        ):
            pass
    assert expected(scenes) in str(raised.value)
    assert f"was killed by {number.name}; " in str(raised.value)
    assert "--resume" in str(raised.value)


def test_evaluation_names_the_image(
    scenes: DetectionDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of its share, whose indices are not those of the loader."""
    kill_when_opened(monkeypatch, signal.SIGKILL)
    index = [Path(p).stem for p in scenes.image_paths].index(str(LETHAL))
    with pytest.raises(WorkerKilled) as raised:
        list(evaluation_loader(scenes, 1, workers=1, rank=index % 2, world_size=2))
    assert expected(scenes) in str(raised.value)


def test_a_worker_killed_between_two_batches_is_named_too(scenes: DetectionDataset) -> None:
    others = multiprocessing.active_children()
    batches = training_loader(scenes, 2, seed=0, workers=1)
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - set(others)

    def step() -> None:
        with batches:
            os.kill(worker.pid, signal.SIGKILL)
            time.sleep(30)  # torch's error arrives here

    with pytest.raises(WorkerKilled, match="the last image it opened is"):
        step()


def die_slowly() -> None:
    os.closerange(3, 256)
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_takes_its_time_to_die_is_waited_for(scenes: DetectionDataset) -> None:
    """On a loaded machine its connections are closed well before it has an exit code."""
    batches = training_loader(scenes, 2, seed=0, workers=1)
    batches.close()
    worker = multiprocessing.get_context("fork").Process(target=die_slowly)
    worker.start()
    batches._workers, batches._batches = [worker], Mock(__next__=Mock(side_effect=EOFError))
    with pytest.raises(WorkerKilled, match=r"was killed by SIGKILL; it had not opened an image"):
        next(batches)


@pytest.mark.parametrize(
    "said", ["CUDA error: out of memory", "DataLoader worker (pid 1) is killed by signal: X. "]
)
def test_errors_of_other_loaders_and_of_the_step_pass(said: str, scenes: DetectionDataset) -> None:
    others = multiprocessing.active_children()

    def step() -> None:
        with training_loader(scenes, 2, seed=0, workers=1) as batches:
            next(batches)
            raise RuntimeError(said)

    with pytest.raises(RuntimeError) as raised:
        step()
    assert type(raised.value) is RuntimeError
    assert str(raised.value) == said
    assert set(multiprocessing.active_children()) <= set(others), "its worker has ended"


def test_workers_end_though_an_error_arrives_meanwhile(
    scenes: DetectionDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = multiprocessing.active_children()
    batches = training_loader(scenes, 2, seed=0, workers=2)
    next(batches)
    error = RuntimeError("DataLoader worker (pid 1) is killed by signal: X. ")
    monkeypatch.setattr(batches._batches, "_shutdown_workers", Mock(side_effect=error))
    batches.close()
    assert set(multiprocessing.active_children()) <= set(others)


KILLED = """
import os, signal, sys, time
from sssd.data import read_coco, training_loader

scenes, parent = read_coco(sys.argv[1]), os.getpid()
os.register_at_fork(
    after_in_parent=lambda: os.kill(parent, signal.SIGKILL),
    after_in_child=lambda: time.sleep(0.5),  # the worker begins when its parent is gone
)
training_loader(scenes, 2, seed=0, workers=1)
"""


@pytest.mark.slow
def test_a_worker_ends_with_a_trainer_that_is_killed_while_it_makes_a_loader(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-c", KILLED, write_scenes(tmp_path, "train")]
    trainer = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True)
    try:
        trainer.wait(timeout=60)
        trainer.communicate(timeout=30)  # ends when the last of them has closed its output
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(trainer.pid, signal.SIGKILL)
    assert trainer.returncode == -signal.SIGKILL


def test_a_process_whose_parent_has_ended_before_it_began_ends_too() -> None:
    process = multiprocessing.Process(target=end_with, args=(os.getpid() + 1,))
    process.start()
    process.join(timeout=10)
    assert process.exitcode == 1


LEFT_OPEN = """
import sys
import torch.utils.data._utils.worker
from sssd.data import read_coco, training_loader

torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.1  # torch waits so long for each worker
batches = training_loader(read_coco(sys.argv[1]), 2, seed=0, workers=1)
next(batches)
"""


@pytest.mark.slow
def test_a_program_ends_with_a_loader_in_use(tmp_path: Path) -> None:
    """Its workers ignore the signal that Python ends them with."""
    path = write_scenes(tmp_path, "train")
    subprocess.run([sys.executable, "-c", LEFT_OPEN, path], cwd=ROOT, check=True, timeout=120)
