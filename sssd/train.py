"""Command: train a detector.

Example:
    python -m sssd.train                # the demo: SSSD on handwritten digits
    python -m sssd.train --help         # the recipes
    python -m sssd.train --list         # also those of the paper's comparison, a line each
    python -m sssd.train coco --help    # every setting of a recipe
    torchrun --nproc-per-node 8 -m sssd.train coco ...    # 8 GPUs share each batch
"""

import dataclasses
import json
import platform
import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import torch
import torchvision
import tyro
from rich.console import Console

from sssd import __version__
from sssd.commands import FAILED, WRONG_USE, exit_on, plain_output
from sssd.data import DataError, DetectionDataset, WorkerKilled, training_transform
from sssd.data.build import build_datasets
from sssd.detectors import build_detector
from sssd.engine import distributed
from sssd.engine.evaluate import table
from sssd.engine.loop import Outcome, train
from sssd.engine.map_plots import plot_maps
from sssd.engine.plots import plot_curves, plot_detections
from sssd.engine.settings import EngineConfig
from sssd.engine.state import RunError, checkpoints, export_weights, write_atomically
from sssd.methods import Method, build_method
from sssd.recipes import RECIPES, SHORTLIST, Config, describe

DEFAULT_RECIPE = "demo"


def main(arguments: list[str] | None = None) -> int:
    """Trains, evaluates and draws what was learnt; returns the exit status."""
    plain_output()
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["--list"]:
        for name, make in RECIPES.items():
            print(f"{name:40} {describe(make())}")
        return 0
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments = [DEFAULT_RECIPE, *arguments]
    with exit_on(WRONG_USE, ValueError):
        config = parse(arguments)
        distributed.choose_device(config.engine.device)  # refuses one that is not there
    with distributed.process_group(config.engine.device):
        return _run(arguments, config)


def _run(arguments: list[str], config: Config) -> int:
    console, recipe = distributed.console(), arguments[0]
    with exit_on(WRONG_USE, ValueError, OSError, ImportError):
        run = distributed.from_first(lambda: choose_run(config, recipe))
        prepared = prepare(config, console)
    with exit_on(FAILED, RunError, DataError, WorkerKilled):
        outcome = execute(prepared, config, recipe, run, console)
    if outcome.signal is not None:
        resumed = [a for a in arguments if a != "--resume"]
        if config.out is None:
            resumed += ["--out", str(run)]
        alone = distributed.world_size() == 1
        launcher = "python" if alone else "torchrun (with the flags of before)"
        console.print(
            f"stopped; go on with\n  {launcher} -m sssd.train {shlex.join(resumed)} --resume",
            soft_wrap=True,
        )
        return 128 + outcome.signal
    assert outcome.numbers is not None
    images = len(prepared.validation_set)
    console.print(table(outcome.numbers, title=f"{images} validation images"))
    console.print(f"detections beside ground truth: {run / 'detections.png'}", soft_wrap=True)
    if (run / "maps.png").exists():
        console.print(f"K, K_e and their distance:      {run / 'maps.png'}", soft_wrap=True)
    console.print(f"losses, lambda and AP:          {run / 'curves.png'}", soft_wrap=True)
    console.print(f"run folder:                     {run}", soft_wrap=True)
    return 0


class Prepared(NamedTuple):
    """What a run's settings stand for."""

    method: Method
    train_set: DetectionDataset
    validation_set: DetectionDataset


def prepare(config: Config, console: Console) -> Prepared:
    """Reads the data and builds the method, its weights drawn from the run's seed.

    Of several processes the first one alone reads and checks the annotations.

    Raises:
        ValueError: settings that do not fit together, or faults in the data.
        OSError: a file that can not be read.
        ImportError: an optional package is missing.
    """
    config.engine.part_size(distributed.world_size())
    config.engine.require_packages()
    train_set, validation_set = distributed.from_first(lambda: build_datasets(config.data, console))
    torch.manual_seed(config.engine.seed)
    detector = build_detector(config.detector, train_set.num_classes)
    return Prepared(
        build_method(detector, config.method, config.schedule), train_set, validation_set
    )


def execute(prepared: Prepared, config: Config, title: str, run: Path, console: Console) -> Outcome:
    """Trains, evaluates and leaves everything that belongs to the run in its folder.

    Every process trains; the first one alone writes.

    Raises:
        RunError: training diverged, or the folder can not be written.
        DataError: an image that can not be read.
        WorkerKilled: the system killed a process that loads images.
    """
    method, train_set, validation_set = prepared
    rate = config.schedule.scaled_learning_rate(config.engine.batch_size)
    console.print(
        f"{title}: {config.method.name} trains {config.detector.name} on "
        f"{config.detector.backbone}; {len(train_set)} images, {train_set.num_classes} classes; "
        f"batch {_batch(config.engine)}; "
        f"learning rate {config.schedule.learning_rate:g} x {config.engine.batch_size}/16 = "
        f"{rate:g}; run in {run}",
        soft_wrap=True,
    )
    if distributed.is_first():
        write_atomically(run / "config.json", lambda file: file.write(_describe(config).encode()))
    outcome = train(
        method,
        train_set,
        validation_set,
        run=run,
        config=config.engine,
        schedule=config.schedule,
        transform=training_transform(config.data.flip, config.data.photometric, config.data.scale),
        console=console,
    )
    if not distributed.is_first():
        return outcome
    if outcome.numbers is not None:
        _finish(outcome, method, run, train_set)
        plot_detections(outcome.detector, validation_set, run / "detections.png")
        plot_maps(method, validation_set, run / "maps.png")
    plot_curves(run)
    return outcome


def _batch(engine: EngineConfig) -> str:
    """The images of a step, as the processes share them: "16 = 2 processes x 2 parts x 4"."""
    processes = distributed.world_size()
    counts = [f"{processes} processes"] if processes > 1 else []
    counts += [f"{engine.accumulate} parts"] if engine.accumulate > 1 else []
    shares = " x ".join([*counts, str(engine.part_size(processes))])
    return f"{engine.batch_size} = {shares}" if counts else str(engine.batch_size)


def choose_run(config: Config, recipe: str) -> Path:
    """The run's folder; refuses to mix a new run with an old one."""
    run = config.out or Path("runs") / f"{recipe}-{datetime.now():%Y%m%d-%H%M%S}"
    if checkpoints(run) and not config.resume:
        raise ValueError(
            f"{run} holds a run already: add --resume to go on with it, or choose another --out"
        )
    if config.resume and not checkpoints(run):
        raise ValueError(f"--resume: {run} holds no checkpoint; name the run's folder with --out")
    return run


def parse(arguments: list[str]) -> Config:
    """Settings from a command line: a recipe's name, then flags that override it."""
    named = arguments[0]
    if not named.startswith("-") and named not in RECIPES:
        raise ValueError(
            f"there is no recipe {named!r}; `python -m sssd.train --list` shows all of them"
        )
    shown = dict.fromkeys([*SHORTLIST, *({named} & RECIPES.keys())])  # all would be no help
    recipes = {name: (describe(RECIPES[name]()), RECIPES[name]()) for name in shown}
    recipes |= {name: (str(RECIPES[name].__doc__), RECIPES[name]()) for name in SHORTLIST}
    return tyro.extras.overridable_config_cli(
        recipes,
        prog="python -m sssd.train",
        description=f"Train a detector. Without a recipe's name: {DEFAULT_RECIPE}. "
        "--list shows every recipe, those of the paper's comparison too.",
        args=arguments,
    )


def _describe(config: Config) -> str:
    """The resolved settings and the versions they ran with."""
    versions = {
        "sssd": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
    processes = distributed.world_size()
    document = {**dataclasses.asdict(config), "processes": processes, "versions": versions}
    return json.dumps(document, indent=2, default=str) + "\n"


def _finish(outcome: Outcome, method: Method, run: Path, dataset: DetectionDataset) -> None:
    """Leaves the numbers, the student's weights and what else the method exports in the folder."""
    numbers = json.dumps(outcome.numbers, indent=2) + "\n"
    write_atomically(run / "evaluation.json", lambda file: file.write(numbers.encode()))
    model = getattr(outcome.detector, "model", outcome.detector)
    names = {"classes": dataset.classes, "category_ids": dataset.category_ids}
    metadata = {name: json.dumps(values) for name, values in names.items()}
    export_weights(run / "model.safetensors", model, metadata)
    for name, part in method.export().items():
        export_weights(run / f"{name}.safetensors", part, metadata)


if __name__ == "__main__":
    sys.exit(main())
