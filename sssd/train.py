"""Command: train a detector.

Example:
    python -m sssd.train                # the demo: SSSD on handwritten digits
    python -m sssd.train --help         # the recipes
    python -m sssd.train --list         # also those of the paper's comparison, a line each
    python -m sssd.train coco --help    # every setting of a recipe
    python -m sssd.train demo --method.name lgd           # a recipe with another method
    python -m sssd.train --resume --out runs/coco         # goes on, with the run's own settings
    torchrun --nproc-per-node 8 -m sssd.train coco ...    # 8 GPUs share each batch
"""

import argparse
import dataclasses
import json
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, NoReturn

import sssd.extras  # noqa: F401  it comes before what may be missing

# isort: split
import torch
import tyro
from rich.console import Console

from sssd.commands import FAILED, WRONG_USE, exit_on, plain_output
from sssd.data import DataError, DetectionDataset, WorkerKilled, training_transform
from sssd.data.build import build_datasets
from sssd.detectors import build_detector
from sssd.engine import distributed
from sssd.engine.evaluate import table
from sssd.engine.loop import Outcome, train
from sssd.engine.record import read_record, read_settings, write_record
from sssd.engine.resume import compared, refuse_changes
from sssd.engine.settings import EngineConfig
from sssd.engine.state import RunError, checkpoints, export_weights, write_atomically
from sssd.flags import of_kinds, of_length, refuse_without_effect
from sssd.methods import KINDS, Method, MethodConfig, build_method
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
    distributed.end_with_launcher()
    with exit_on(WRONG_USE, ValueError, OSError):
        recipe, config = parse(arguments)
        distributed.choose_device(config.engine.device)  # refuses one that is not there
    with distributed.process_group(config.engine.device):
        return _run(recipe, config)


def _run(recipe: str, config: Config) -> int:
    console = distributed.console()
    with exit_on(WRONG_USE, ValueError, OSError, ImportError):
        run = distributed.from_first(lambda: choose_run(config, recipe))
        prepared = prepare(config, console)
    with exit_on(FAILED, RunError, DataError, WorkerKilled):
        outcome = execute(prepared, config, recipe, run, console)
    if outcome.signal is not None:
        alone = distributed.world_size() == 1
        launcher = "python" if alone else "torchrun (with its flags of before)"
        same = f"-m sssd.train --resume --out {shlex.quote(str(run))}"
        console.print(f"stopped; go on with\n  {launcher} {same}", soft_wrap=True)
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
        ValueError: settings that do not fit together, faults in the data, or no images.
        OSError: a file that can not be read.
        ImportError: an optional package is missing.
    """
    config.engine.part_size(distributed.world_size())
    config.engine.require_packages()
    train_set, validation_set = distributed.from_first(lambda: build_datasets(config.data, console))
    torch.manual_seed(config.engine.seed)
    detector_config = config.detector
    if config.resume:  # its checkpoint holds what has become of those weights
        detector_config = dataclasses.replace(detector_config, start_from=None)
    detector = build_detector(detector_config, train_set.num_classes)
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

    def begun(iteration: int) -> None:
        changed = write_record(run, title, config, iteration)
        if iteration > 0:
            console.print(f"goes on behind iteration {iteration}", soft_wrap=True)
        for name, (was, now) in changed.items():
            console.print(f"  with {name} {now}, which was {was}", soft_wrap=True)

    outcome = train(
        method,
        train_set,
        validation_set,
        run=run,
        config=config.engine,
        schedule=config.schedule,
        transform=training_transform(config.data.flip, config.data.photometric, config.data.scale),
        console=console,
        others=compared(config.data, "--data.") | compared(config.detector, "--detector."),
        begun=begun,
    )
    if not distributed.is_first():
        return outcome
    from sssd.engine.map_plots import plot_maps  # matplotlib takes seconds, which --help need not
    from sssd.engine.plots import plot_curves, plot_detections

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
            f"{run} holds a run already: go on with it by `python -m sssd.train --resume --out "
            f"{shlex.quote(str(run))}`, or choose another --out"
        )
    return run


def parse(arguments: Sequence[str]) -> tuple[str, Config]:
    """A recipe's name and the settings of a run, new or gone on with, from a command line.

    What is given overrides the recipe's settings; with --resume, those that the run in --out has.

    Raises:
        ValueError: a flag that can not be honoured, or a run that can not go on.
        FileNotFoundError: --resume, and --out is no run's folder.
    """
    if arguments[:1] in (["-h"], ["--help"]):
        _show_help()
    named = arguments[0] if arguments and not arguments[0].startswith("-") else None
    flags = arguments[1:] if named else arguments
    if named and named not in RECIPES:
        raise ValueError(
            f"there is no recipe {named!r}; `python -m sssd.train --list` shows all of them"
        )
    run = _resumed(flags)
    if run is None:
        recipe = named or DEFAULT_RECIPE
        own = of_kinds(of_length(RECIPES[recipe](), flags), flags)
    else:
        recipe, own = str(read_record(run).get("recipe", named)), read_settings(run, Config)
        if named not in (None, recipe):
            raise ValueError(f"{named}: {run} was begun as {recipe}; leave the recipe's name out")
        asked = compared(of_kinds(own, flags))
        refuse_changes(compared(own), {f: v for f, v in asked.items() if f in compared(own)})
    config = tyro.cli(
        Config,
        prog=f"python -m sssd.train {recipe}",
        description=str(RECIPES[recipe].__doc__) if recipe in SHORTLIST else describe(own),
        default=own,
        args=flags,
    )
    if run is not None:
        refuse_changes(compared(own), compared(config))
    refuse_without_effect(config, flags)
    return recipe, config


def _show_help() -> NoReturn:
    recipes = "\n".join(f"  {name:25} {RECIPES[name].__doc__}" for name in SHORTLIST)
    methods = ", ".join(KINDS[MethodConfig])
    print(
        f"""usage: python -m sssd.train [RECIPE] [--SETTING VALUE ...]

Train a detector. Without a recipe's name: {DEFAULT_RECIPE}.

recipes:
{recipes}
  fcos_r50_lgd, ...         The rows of the paper's comparison; --list shows all of them.

  RECIPE --help             Every setting of a recipe.
  RECIPE --method.name NAME The same with another method: {methods}.
  --list                    Every recipe, a line each.
  --resume --out RUN        Go on with a run, with its own settings."""
    )
    sys.exit(0)


def _resumed(flags: Sequence[str]) -> Path | None:
    """The folder of the run to go on with, if a command line asks for that."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--resume", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--out", type=Path)
    asked, _ = parser.parse_known_args(flags)
    if not asked.resume:
        return None
    if asked.out is None:
        raise ValueError("--resume: name the run's folder with --out")
    if not checkpoints(asked.out):
        raise ValueError(
            f"--resume: {asked.out} holds no checkpoint; name a run's folder with --out"
        )
    return Path(asked.out)


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
