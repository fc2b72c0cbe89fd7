"""`fit`: what it returns and leaves, from a program; that it goes on, stops and refuses."""

import io
import json
import multiprocessing
import os
import re
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import torch
import torchvision
from rich.console import Console

import sssd
from sssd.data import DataError
from sssd.data.settings import DataConfig
from sssd.detectors import DetectorConfig
from sssd.engine.files import RunError
from sssd.engine.log import read_metrics
from sssd.engine.prediction import Predictor
from sssd.engine.record import read_settings
from sssd.engine.runs import Run
from sssd.engine.settings import EngineConfig
from sssd.fitting import _flags, _settings
from sssd.flags import in_iterations
from sssd.methods import Method, SSSDConfig
from sssd.recipes import Config
from sssd.schedules import CoefficientConfig
from tests.scenes import write_scenes

QUIET = Console(quiet=True)
SMALL: dict[str, Any] = {
    "detector": {"backbone": "resnet18", "weights": None, "min_size": [64], "max_size": 64},
    "schedule": {"warmup": 0},
    "engine": {"batch_size": 2, "workers": 1, "ema_decay": None, "log_every": 1},
}


TOLD: list[tuple[dict[str, float], int]] = []  # by the run's logger
SAID: list[str] = []  # in the run's console


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("data")
    train, val = write_scenes(folder, "train", count=4), write_scenes(folder, "val", count=3)
    return {"train": str(train), "val": str(val)}


@pytest.fixture(scope="module")
def run(data: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of two iterations, in another thread than the main one."""
    out, backend = tmp_path_factory.mktemp("fit") / "run", matplotlib.get_backend(auto_select=False)
    said = io.StringIO()
    told: list[tuple[dict[str, float], int]] = []
    about = {"console": Console(file=said, width=300), "loggers": [lambda *row: told.append(row)]}
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(sssd.fit, "small", out, data=data, epochs=1, **about, **SMALL).result()
    TOLD[:], SAID[:] = told, said.getvalue().splitlines()
    assert matplotlib.get_backend(auto_select=False) == backend, "a notebook's own"
    return run


def test_a_run_is_what_load_opens_and_leaves_nothing_else_behind(run: Run) -> None:
    assert multiprocessing.active_children() == []
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert run.signal is None
    assert run.numbers == json.loads((run.folder / "evaluation.json").read_text())
    again = sssd.load(str(run.folder))
    assert (again.numbers, again.classes, again.config) == (run.numbers, run.classes, run.config)
    assert not run.detector.training
    found, expected = again.detector.state_dict(), run.detector.state_dict()
    assert all(torch.equal(found[name].cpu(), value.cpu()) for name, value in expected.items())
    for name in ("report.html", "classes.csv", "confusion.csv"):
        assert (run.folder / name).stat().st_size > 0


def test_settings_are_the_recipes_with_the_changes_and_all_moves_with_the_length(run: Run) -> None:
    record = json.loads((run.folder / "config.json").read_text())
    assert record["recipe"] == "small"
    assert record["engine"]["optimizer"] == "adamw", "the recipe's"
    assert record["schedule"]["milestones"] == [1, 2]
    assert record["detector"]["min_size"] == [64]
    assert [row["iteration"] for row in read_metrics(run.folder) if "loss" in row] == [1, 2]


@pytest.mark.usefixtures("run")
def test_what_it_says_and_tells_on_the_way() -> None:
    first = next(line for line in SAID if line.startswith("small: "))
    assert re.match(
        r"small: 2 iterations = 1 epochs on .+, 1 thread \(fp32; \d+\.\d of \d+ GB\); sssd trains "
        r"fcos on resnet18, [\d,]+ of [\d,]+ weights$",
        first,
    ), first
    second = SAID[SAID.index(first) + 1]
    assert "4 images, 3 for validation, 2 classes; batch 2; learning rate 0.008 x 2/16" in second
    progress = [line for line in SAID if line.startswith("2/2")]
    assert re.search(r"ETA 0:00:\d\d  loss [\d.]+ .* [\d.]+ images/s  \d\.\d GB$", progress[0])
    assert re.search(r"AP -?[\d.]+ \(best -?[\d.]+ at 2\)  evaluated in [\d.]+ s$", progress[1])
    assert [step for _, step in TOLD] == [1, 2, 2]
    assert "loss/distillation" in TOLD[0][0]
    assert "AP" in TOLD[2][0]


def test_the_best_weights_open_too(run: Run, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run.folder, tmp_path / "copy"))
    (copy / "model.safetensors").unlink()  # as in a run that has not ended
    best = sssd.load(copy, weights="best")
    assert best.numbers == json.loads((copy / "best.json").read_text())["numbers"]
    assert best.best == run.best
    assert run.best is not None
    assert run.best.iteration == 2
    expected = run.detector.state_dict()
    assert all(
        torch.equal(v.cpu(), expected[n].cpu()) for n, v in best.detector.state_dict().items()
    )
    with pytest.raises(ValueError, match="weights is 'first'; it must be one of last, best"):
        sssd.load(copy, weights="first")  # type: ignore[arg-type]
    (copy / "best.safetensors").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"has not been evaluated yet, so it has no best\.safe"
    ):
        sssd.load(copy, weights="best")


def test_a_run_goes_on_with_its_own_settings_until_it_is_stopped(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Method.__call__

    def stopping(self: Method, images: list, targets: list, iteration: int) -> object:
        if iteration == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return call(self, images, targets, iteration)

    monkeypatch.setattr(Method, "__call__", stopping)
    before = signal.getsignal(signal.SIGINT)
    stopped = sssd.fit(out=run.folder, resume=True, console=QUIET, iterations=9)
    assert (stopped.signal, stopped.numbers) == (signal.SIGINT, None)
    assert signal.getsignal(signal.SIGINT) == before
    rows = [row["iteration"] for row in read_metrics(run.folder) if "loss" in row]
    assert rows == [1, 2, 3, 4]
    with pytest.raises(
        FileNotFoundError, match="not finished"
    ):  # not the weights of the shorter run
        sssd.load(run.folder)
    assert json.loads((run.folder / "config.json").read_text())["engine"]["batch_size"] == 2


@pytest.mark.parametrize(
    ("config", "changes", "error", "said"),
    [
        ("smal", {}, ValueError, "config: there is no recipe 'smal'; there are demo, small"),
        ("small", {"engin": {}}, TypeError, "engin: no such setting; the settings are data"),
        ("small", {"engine": {"batch": 2}}, TypeError, r"engine\.batch: no such setting"),
        (
            "small",
            {"engine": {"batch_size": "many"}},
            TypeError,
            r"engine\.batch_size is 'many'; it must be int$",
        ),
        ("small", {"schedule": {"iterations": 0}}, ValueError, "--schedule.iterations is 0"),
        (
            "small",
            {"data": "a.json"},
            TypeError,
            r"data is 'a.json'; it must be a dict of settings, {name: value}, or DataConfig",
        ),
        ("small", {"method": "plain"}, TypeError, "it must be a dict of settings, {name"),
        (
            "small",
            {"detector": {"name": "yolo"}},
            TypeError,
            r"detector\.name is 'yolo'; it must be Literal\['fcos'",
        ),
        ("demo", {"data": {"train": "a.json"}}, ValueError, "--data.train has no effect here"),
        ("small", {"iterations": 3, "epochs": 2}, ValueError, "a run without --schedule.epochs"),
        ("small", {"epochs": 0}, ValueError, "--schedule.epochs is 0; it must be"),
        (
            "small",
            {"iterations": 3, "schedule": {"iterations": 4}},
            ValueError,
            "iterations: schedule is given too; set the length in one place",
        ),
        ("small", {"loggers": ["wandb"]}, TypeError, r"loggers is \['wandb'\]; it must be a l"),
        ("small", {"loggers": print}, TypeError, "loggers is <built-in .*; it must be a list of"),
        (
            "small",
            {"engine": {"loggers": ["comet"]}},
            TypeError,
            r"engine\.loggers is \['comet'\]; it must be tuple.*'tensorboard', 'wandb', 'mlflow'",
        ),
        ("small", {}, ValueError, "--data.train is required"),
        ("small", {"resume": True}, ValueError, "resume: .* holds no checkpoint"),
        ("small", {"engine": {"device": "nonsense"}}, ValueError, "device 'nonsense'"),
    ],
)
def test_what_cannot_be_used_is_named_and_nothing_written(
    config: str, changes: dict[str, Any], error: type[Exception], said: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said):
        sssd.fit(config, tmp_path / "run", console=QUIET, **changes)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (Config(engine=EngineConfig(optimizer="sdg")), r"engine\.optimizer is 'sdg'; .*'adamw'"),
        (Config(detector=DetectorConfig(name="ssd")), r"detector\.name is 'ssd'; .*'fcos'"),
        (Config(data=DataConfig(format="COCO")), r"data\.format is 'COCO'; .*'coco'"),
        (Config(method=SSSDConfig(over="cell")), r"method\.over is 'cell'; .*'cells'"),
    ],
)
def test_a_settings_object_with_a_wrong_value_is_refused(config: Config, said: str) -> None:
    """A dataclass takes any value, and an unknown name could pass for another."""
    with pytest.raises(TypeError, match=said):
        sssd.fit(config, console=QUIET)


@pytest.mark.parametrize(
    "method",
    [
        {"coefficient": {"steps": {100: 3.0}, "start": 50}},
        {"coefficient": CoefficientConfig(steps={100: 3.0}, start=50)},
        SSSDConfig(coefficient=CoefficientConfig(steps={100: 3.0}, start=50)),
    ],
)
def test_a_length_in_epochs_moves_nothing_that_is_given(method: Any) -> None:
    changes = {"schedule": {"epochs": 2}, "method": method}
    _, config = _settings("small", None, False, changes)
    moved = in_iterations(config, 1000, _flags(changes))
    assert moved.schedule.iterations == 2000 // config.engine.batch_size
    assert moved.schedule.milestones != config.schedule.milestones
    coefficient = moved.method.coefficient
    assert (coefficient.steps, coefficient.start) == ({100: 3.0}, 50)


def test_what_another_run_has_left_in_the_folder_is_no_best_of_this_one(
    data: dict[str, str], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was killed before its first checkpoint, and begun again."""
    for name in ("config.json", "best.safetensors"):
        shutil.copy(run.folder / name, tmp_path)

    def failing(*_: object) -> None:
        raise MemoryError("all of it is taken")

    monkeypatch.setattr(Method, "__call__", failing)
    with pytest.raises(RunError, match=r"out of memory after iteration 0.*all of it is taken"):
        sssd.fit("small", tmp_path, data=data, console=QUIET, **SMALL)
    assert not (tmp_path / "best.safetensors").exists()


def test_a_folder_with_a_run_is_not_written_over(run: Run) -> None:
    with pytest.raises(ValueError, match=r"already holds a run.*resume=True"):
        sssd.fit("demo", run.folder)


def test_a_run_knows_its_data_in_every_folder(
    data: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it is evaluated on what lies in a place of that name."""
    monkeypatch.chdir(Path(data["val"]).parent)
    near = {name: os.path.relpath(path) for name, path in data.items()}
    run = sssd.fit("small", tmp_path, data=near, console=QUIET, epochs=1, **SMALL)
    monkeypatch.chdir(tmp_path)
    numbers = run.evaluate(console=QUIET).numbers
    assert numbers == {name: run.numbers[name] for name in numbers}
    settings = read_settings(tmp_path, Config).data
    assert (str(settings.train), str(settings.val)) == (data["train"], data["val"])


def test_a_run_is_the_same_in_another_working_folder(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished_run.parent)
    near = sssd.load(finished_run.name)
    monkeypatch.chdir(tmp_path)
    assert near.folder == finished_run
    assert Predictor.of(near).threshold == Predictor.of(sssd.load(finished_run)).threshold


def test_weights_that_a_run_began_with_need_not_be_there_when_it_resumes(
    data: dict[str, str], tmp_path: Path
) -> None:
    weights = tmp_path / "resnet18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), weights)
    begun = {**SMALL, "detector": {**SMALL["detector"], "weights": str(weights)}}
    first = sssd.fit("small", tmp_path / "run", data=data, console=QUIET, iterations=1, **begun)
    weights.unlink()
    again = sssd.fit(out=first.folder, resume=True, iterations=2, console=QUIET)
    assert read_metrics(again.folder)[-1]["iteration"] == 2


def test_what_is_refused_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    absent = {"train": "absent.json", "val": "absent.json"}
    for error, changes in (("absent", {"data": absent}), ("name a run's folder", {"resume": True})):
        with pytest.raises((ValueError, OSError), match=error):
            sssd.fit("small", console=QUIET, **changes)
    assert list(tmp_path.iterdir()) == []


def test_a_run_goes_on_by_its_recipes_name_too(run: Run, data: dict[str, str]) -> None:
    """What happens at an iteration stays where it was, as in the command."""
    _, config = _settings("small", run.folder, True, {"schedule": {"iterations": 30}})
    own = read_settings(run.folder, Config)
    assert config.schedule.iterations == 30
    assert config.schedule.milestones == own.schedule.milestones
    with pytest.raises(ValueError, match=r"was started with 'small', not 'demo'; leave it out"):
        _settings("demo", run.folder, True, {})


@pytest.mark.parametrize(
    ("raised", "error"), [(DataError("3.png is cut"), RunError), (ValueError("a"), RuntimeError)]
)
def test_an_error_on_the_way_is_none_of_the_settings(
    raised: Exception,
    error: type[Exception],
    data: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(*_: object) -> None:
        raise raised

    monkeypatch.setattr(Method, "__call__", failing)
    with pytest.raises(error, match=str(raised)) as info:
        sssd.fit("small", tmp_path / "run", data=data, console=QUIET, **SMALL)
    assert type(info.value) is error
    assert info.value.__cause__ is raised
    assert multiprocessing.active_children() == []
