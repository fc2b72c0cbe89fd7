"""AP on the way: how often, the best weights, and stopping where it does not rise any more."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from sssd.data import DetectionDataset, read_coco
from sssd.engine import loop
from sssd.engine.best import RULE, read_best
from sssd.engine.log import read_metrics
from sssd.engine.loop import Trainer
from sssd.engine.settings import EngineConfig
from sssd.engine.state import checkpoints
from sssd.methods import PlainConfig, build_method
from sssd.schedules import ScheduleConfig
from tests.scenes import write_scenes
from tests.tiny import tiny_detector, train

SCHEDULE = ScheduleConfig(iterations=6, learning_rate=0.05, milestones=(4,), warmup=0)
CONFIG = EngineConfig(batch_size=2, workers=0, log_every=1, evaluate_every=1, checkpoint_every=2)
Train = Callable[..., Trainer]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    return read_coco(write_scenes(tmp_path_factory.mktemp("data"), "train", count=4))


@pytest.fixture
def rising(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[int, float]], None]:
    """Says which AP each iteration has."""

    def say(scores: dict[int, float]) -> None:
        def evaluate(*_: object, **__: object) -> SimpleNamespace:
            return SimpleNamespace(numbers={"AP": scores[trainers[-1].done], "AP50": 0.5})

        monkeypatch.setattr(loop, "evaluate_detector", evaluate)

    trainers: list[Trainer] = []
    begin = Trainer._begin
    monkeypatch.setattr(Trainer, "_begin", lambda self: trainers.append(self) or begin(self))
    return say


def run_to(dataset: DetectionDataset, run: Path, iterations: int = 6, **changes: object) -> Trainer:
    schedule = replace(SCHEDULE, iterations=iterations)
    method = build_method(tiny_detector(), PlainConfig(), schedule)
    return train(method, dataset, run, replace(CONFIG, **changes), schedule)  # type: ignore[arg-type]


SCORES = {1: 0.1, 2: 0.4, 3: 0.2, 4: 0.4, 5: 0.3, 6: 0.3}


def test_the_best_weights_are_the_earlier_of_equals_and_say_so(
    dataset: DetectionDataset, tmp_path: Path, rising: Callable
) -> None:
    rising(SCORES)
    trainer = run_to(dataset, tmp_path / "run", ema_decay=0.5)
    best = read_best(tmp_path / "run")
    assert best == trainer.best
    assert (best.iteration, best.AP, best.rule) == (2, 0.4, RULE)
    shorter = run_to(dataset, tmp_path / "shorter", 2, ema_decay=0.5)
    expected = shorter.average.module.model.state_dict()  # the moving average, not the weights
    found = load_file(tmp_path / "run/best.safetensors")
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("cut", [3, 5])
def test_the_best_survives_a_kill_behind_its_evaluation(
    cut: int, dataset: DetectionDataset, tmp_path: Path, rising: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The file is ahead of checkpoint and metrics when the process dies."""
    rising({1: 0.1, 2: 0.3, 3: 0.4, 4: 0.2, 5: 0.4, 6: 0.3})
    run_to(dataset, tmp_path / "straight")
    write = Trainer._write

    def killed(self: Trainer, row: dict) -> None:
        if "AP" in row and row["iteration"] == cut:
            raise KeyboardInterrupt
        write(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            run_to(dataset, tmp_path / "cut")
    resumed = run_to(dataset, tmp_path / "cut")
    assert read_best(tmp_path / "cut") == read_best(tmp_path / "straight")
    assert resumed.best_weights.since == 3
    files = [load_file(tmp_path / name / "best.safetensors") for name in ("cut", "straight")]
    assert all(torch.equal(files[0][name], value) for name, value in files[1].items())


def test_a_run_without_patience_left_stops_like_one_at_its_end(
    dataset: DetectionDataset, tmp_path: Path, rising: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = []
    rising({**SCORES, 3: 0.5, 4: 0.4})
    evaluate = loop.evaluate_detector

    def noted(*args: object, engine: str, **others: object) -> object:
        engines.append(engine)
        return evaluate(*args)

    monkeypatch.setattr(loop, "evaluate_detector", noted)
    config = {"patience": 2, "checkpoint_every": 100, "evaluate_with": "faster-coco-eval"}
    stopped = run_to(dataset, tmp_path, **config)
    assert (stopped.done, stopped.best.iteration, stopped.signal) == (5, 3, None)
    assert stopped.numbers is not None
    assert [path.stem for path in checkpoints(tmp_path)] == ["00000004", "00000005"]
    assert engines[-1] == "pycocotools", "those of the end"
    assert engines[0] == "faster-coco-eval"
    again = run_to(dataset, tmp_path, **config)
    assert (again.done, again.numbers) == (5, stopped.numbers), "it had ended"
    more = run_to(dataset, tmp_path, **{**config, "patience": None})
    assert more.done == 6
    assert [r["iteration"] for r in read_metrics(tmp_path) if "AP" in r] == [1, 2, 3, 4, 5, 6]


def test_evaluating_changes_nothing_of_the_training(
    dataset: DetectionDataset, tmp_path: Path
) -> None:
    often = run_to(dataset, tmp_path / "often")
    never = run_to(dataset, tmp_path / "never", evaluate_every=0)
    for one, other in zip(often.method.parameters(), never.method.parameters(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(often.random["cpu"], never.random["cpu"])
    losses = [
        [row["loss"] for row in read_metrics(tmp_path / name) if "loss" in row]
        for name in ("often", "never")
    ]
    assert losses[0] == losses[1]


def test_evaluations_are_no_part_of_the_speed(
    dataset: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def taking(seconds: float, call: Callable) -> Callable:
        def later(*args: object, **others: object) -> object:
            now[0] += seconds
            return call(*args, **others)

        return later

    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(loop.TrainingStep, "__call__", taking(1.0, loop.TrainingStep.__call__))
    monkeypatch.setattr(loop, "evaluate_detector", taking(100.0, loop.evaluate_detector))
    run_to(dataset, tmp_path)
    rows = [row for row in read_metrics(tmp_path) if "loss" in row]
    assert [row["images_per_second"] for row in rows] == [2.0] * 6


@pytest.mark.parametrize(
    ("iterations", "images", "batch", "every"),
    [
        (180_000, 5000, 16, 18_000),  # a tenth of the run
        (400, 200, 8, 100),  # four times the images that are evaluated: a tenth of the time
        (1, 1, 1, 4),
    ],
)
def test_evaluations_are_ten_or_take_a_tenth_of_the_time(
    iterations: int, images: int, batch: int, every: int
) -> None:
    config = EngineConfig(batch_size=batch)
    assert config.evaluation_interval(iterations, images) == every
    assert replace(config, evaluate_every=7).evaluation_interval(iterations, images) == 7


def test_the_evaluations_left_are_counted(dataset: DetectionDataset, tmp_path: Path) -> None:
    def left(total: int, every: int) -> Iterator[int]:
        method = build_method(tiny_detector(), PlainConfig(), SCHEDULE)
        config, schedule = (
            replace(CONFIG, evaluate_every=every),
            replace(SCHEDULE, iterations=total),
        )
        trainer = Trainer(method, dataset, dataset, tmp_path, config, schedule)
        return (trainer.evaluations_left(done) for done in range(total + 1))

    assert list(left(7, 3)) == [3, 3, 3, 2, 2, 2, 1, 0]
    assert list(left(6, 3)) == [2, 2, 2, 1, 1, 1, 0]
    assert list(left(3, 0)) == [1, 1, 1, 0]


@pytest.mark.parametrize("patience", [0, -1])
def test_no_patience_at_all_is_refused(patience: int) -> None:
    with pytest.raises(
        ValueError, match=rf"--engine.patience is {patience}; it must be at least 1"
    ):
        EngineConfig(patience=patience)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "best.safetensors").write_bytes(json.dumps({}).encode())
    with pytest.raises(ValueError, match=r"best\.safetensors: not a valid file of a run"):
        read_best(tmp_path)
