"""`fit`: from settings to a trained detector and the folder of its run."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import sssd.extras  # noqa: F401  it comes before what may be missing

# isort: split
import torch
from rich.console import Console

from sssd.data import DataError, DetectionDataset
from sssd.data.build import build_datasets
from sssd.detectors import build_detector
from sssd.engine import distributed
from sssd.engine.files import (
    BEST,
    NUMBERS,
    NUMBERS_OF_BEST,
    REPORT,
    WEIGHTS,
    RunError,
    write_text,
)
from sssd.engine.folder import check_folder, new_folder
from sssd.engine.headline import first_lines
from sssd.engine.inference import Evaluation
from sssd.engine.lock import alone_in
from sssd.engine.loggers import Logger
from sssd.engine.loop import Trainer
from sssd.engine.record import read_record, read_settings, with_changes, write_record
from sssd.engine.resume import compared
from sssd.engine.runs import Run, plain_model, to_rebuild
from sssd.engine.state import checkpoints, export_weights
from sssd.flags import in_iterations, of_kinds, of_length, refuse_without_effect
from sssd.methods import Method, build_method
from sssd.recipes import DEFAULT_RECIPE, RECIPES, Config


def fit(
    config: Config | str | None = None,
    out: Path | str | None = None,
    *,
    resume: bool = False,
    console: Console | None = None,
    iterations: int | None = None,
    epochs: float | None = None,
    loggers: Sequence[Logger] = (),
    **changes: Any,
) -> Run:
    """Trains a detector, evaluates it, and writes everything to the folder of the run.

    Ctrl-C, SIGTERM and SIGUSR1 stop it after the current step, with a checkpoint. Processes that
    torchrun started train together, and each gets its run.

    Args:
        config: settings, or the name of a recipe (`python -m sssd.train --list`); by default those
            of the resumed run, or the recipe "demo".
        out: folder of the run; by default `config.out`, or runs/RECIPE-DATE-TIME.
        resume: resume the run in `out` from its newest checkpoint.
        console: where progress is printed; by default standard output.
        iterations: length of the run; milestones, warm-up and the start of lambda scale with it.
        epochs: length of the run in epochs, instead of iterations.
        loggers: functions that are called as `logger(row, step)` with each row of metrics: numbers
            by name, and the iteration. Those that have a method `close` are closed at the end. One
            that fails is named in a warning and not called again.
        changes: changes of `data`, `detector`, `method`, `schedule` and `engine`: dicts of their
            fields, or settings objects that replace them. A different `method["name"]` brings that
            method's settings.

    Returns:
        The run: folder, detector, classes, and the 12 COCO numbers, or the signal that stopped it.

    Raises:
        ValueError, TypeError, OSError, ImportError: settings or data that cannot be used, or an
            optional package that is missing. Nothing was written.
        RunError: training diverged, memory ran out, an image cannot be read, the folder cannot be
            written, or it holds another run.
        WorkerKilled: the system killed a process that loads images.

    Example:
        >>> data = {"train": "coco/annotations/train.json", "val": "coco/annotations/val.json"}
        >>> run = sssd.fit("small", "runs/mine", data=data, epochs=12)  # doctest: +SKIP
        >>> run.numbers["AP"]  # doctest: +SKIP
    """
    _require_functions(loggers)
    changes = _with_length(changes, iterations=iterations, epochs=epochs)
    recipe, asked = _settings(config, out, resume, changes)
    return fit_settings(asked, recipe, _flags(changes), console, loggers)


def fit_settings(
    asked: Config,
    recipe: str,
    given: Sequence[str],
    console: Console | None = None,
    loggers: Sequence[Logger] = (),
) -> Run:
    """`fit` for settings that are complete, as the command has them.

    Args:
        asked: settings of a run.
        recipe: their name in the folder's `config.json`.
        given: flags whose values a length in epochs does not scale: see `in_iterations`.
        console: see `fit`, which also says what is returned and raised.
        loggers: see `fit`.
    """
    with distributed.process_group(asked.engine.device), ExitStack() as held:
        console = console or distributed.console()
        asked = dataclasses.replace(asked, data=asked.data.absolute())
        distributed.from_first(lambda: check_folder(asked.out, asked.resume))
        method, train_set, validation_set, config = prepare(asked, console, given)
        folder = distributed.from_first(lambda: (config.out or new_folder(recipe)).absolute())
        if distributed.is_first():
            held.enter_context(alone_in(folder, "training"))
            # Again: until now another training may have been at work there.
            check_folder(asked.out, asked.resume)
        run = Run(
            folder,
            method.detector,
            train_set.classes,
            train_set.category_ids,
            to_rebuild(config.detector),
            config.data,
            config.engine.part_size(distributed.world_size()),
        )
        trainer = Trainer(
            method,
            train_set,
            validation_set,
            folder,
            config.engine,
            config.schedule,
            transform=config.data.transform(config.schedule.iterations * config.engine.accumulate),
            console=console,
            others=compared(config.data, "--data.") | compared(config.detector, "--detector."),
            loggers=loggers,
            metadata=run.metadata(),
        )
        for line in first_lines(recipe, config.detector, trainer):
            console.print(line, soft_wrap=True)
        if distributed.is_first():
            _begin(folder, recipe, config, trainer.done, console)
        with _under_way(trainer):
            trainer.run()
            method.eval()
            run = dataclasses.replace(
                run,
                detector=trainer.detector.eval(),
                numbers=trainer.numbers if trainer.signal is None else None,
                signal=trainer.signal,
                best=trainer.best_weights.best,
            )
            if run.numbers is not None:
                if distributed.is_first():
                    _write_results(run, method)
                # None in a run that was killed after its last evaluation: all make it anew.
                evaluation = trainer.evaluation or run.evaluate(validation_set, console=console)
                if distributed.is_first():
                    draw_report(run, evaluation, method, train_set, console)
    return run


class Prepared(NamedTuple):
    """What a run's settings stand for."""

    method: Method
    train_set: DetectionDataset
    validation_set: DetectionDataset
    config: Config


def prepare(config: Config, console: Console | None = None, given: Sequence[str] = ()) -> Prepared:
    """Reads the data and builds the method, its weights drawn from the run's seed.

    Of several processes the first one alone reads and checks the annotations.

    Args:
        config: settings of a run.
        console: where to show what the data hold, and which classes the detector starts with.
        given: flags whose values a length in epochs does not move: see `in_iterations`.

    Returns:
        All of them, the settings with their length in iterations.

    Raises:
        ValueError: settings that do not fit together, faults in the data, or no images.
        OSError: a file that cannot be read.
        ImportError: an optional package is missing.
    """
    distributed.choose_device(config.engine.device)  # refuses one that is not there
    config.engine.part_size(distributed.world_size())
    config.engine.require_packages()
    train_set, validation_set = distributed.from_first(lambda: build_datasets(config.data, console))
    config = in_iterations(config, len(train_set), given)
    torch.manual_seed(config.engine.seed)
    detector = build_detector(
        config.detector,
        train_set.num_classes,
        train_set.classes,
        console,
        load=not config.resume,  # its checkpoint holds what has become of those weights
    )
    method = build_method(detector, config.method, config.schedule)
    if not config.resume:
        method.start()
    return Prepared(method, train_set, validation_set, config)


def _settings(
    config: Config | str | None, out: Path | str | None, resume: bool, changes: Mapping[str, Any]
) -> tuple[str, Config]:
    """The name and the settings of a run, from what `fit` is given."""
    flags = _flags(changes)
    begun = out is not None and bool(checkpoints(Path(out)))
    if resume and out is not None and (config is None or (isinstance(config, str) and begun)):
        name = str(read_record(Path(out)).get("recipe"))
        if config not in (None, name):
            raise ValueError(
                f"config: {out} was started with {name!r}, not {config!r}; leave it out"
            )
        config = read_settings(Path(out), Config)
    elif isinstance(config, Config):
        name = "own"
        if not (resume or config.resume):  # a run that goes on keeps what happens when
            config = of_length(config, flags)
    else:
        name = config or DEFAULT_RECIPE
        if name not in RECIPES:
            raise ValueError(f"config: there is no recipe {name!r}; there are {', '.join(RECIPES)}")
        config = of_length(RECIPES[name](), flags)
    folder = Path(out) if out is not None else config.out
    config = dataclasses.replace(config, out=folder, resume=resume or config.resume)
    config = with_changes(of_kinds(config, flags), changes)
    config = with_changes(config, dataclasses.asdict(config))  # a dataclass alone takes any value
    refuse_without_effect(config, flags)
    return name, config


def _with_length(changes: Mapping[str, Any], **length: float | None) -> dict[str, Any]:
    """Changes with a length of their own among those of the schedule."""
    given = {name: value for name, value in length.items() if value is not None}
    schedule = changes.get("schedule", {})
    if given and (not isinstance(schedule, Mapping) or given.keys() & schedule.keys()):
        raise ValueError(
            f"{', '.join(given)}: schedule is given too; set the length in one place only"
        )
    return {**changes, "schedule": {**schedule, **given}} if given else dict(changes)


def _require_functions(loggers: Any) -> None:
    """Refuses loggers that are none, or one that is not in a list."""
    if not isinstance(loggers, list | tuple) or not all(callable(logger) for logger in loggers):
        raise TypeError(
            f"loggers is {loggers!r}; it must be a list of functions of (row, step). Loggers with "
            'a name are a setting: engine={"loggers": ["tensorboard"]}'
        )


def _flags(changes: Mapping[str, Any], prefix: str = "--") -> list[str]:
    """Settings that are given in dicts, as a command line has them."""
    flags: list[str] = []
    for name, value in changes.items():
        flag = f"{prefix}{name}".replace("_", "-")
        flags += _flags(value, f"{flag}.") if isinstance(value, Mapping) else [f"{flag}={value}"]
    return flags


def _begin(folder: Path, recipe: str, config: Config, done: int, console: Console) -> None:
    """Writes the settings of a run, and says what has changed where it goes on."""
    if done == 0:  # of a run that was killed before its first checkpoint
        (folder / BEST).unlink(missing_ok=True)
    elif done < config.schedule.iterations:  # of a shorter one, whose checkpoint holds them too
        for name in (WEIGHTS, NUMBERS):
            (folder / name).unlink(missing_ok=True)
    changed = write_record(folder, recipe, config, done)
    if done > 0:
        console.print(f"resumes after iteration {done}", soft_wrap=True)
    for name, (was, now) in changed.items():
        console.print(f"  with {name} {now} (was {was})", soft_wrap=True)


@contextmanager
def _under_way(trainer: Trainer) -> Iterator[None]:
    """From here on an error is none of the settings, whatever its class."""
    try:
        yield
    except DataError as error:
        raise RunError(str(error)) from error
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise RuntimeError(f"failed after iteration {trainer.done}: {error}") from error


def _write_results(run: Run, method: Method) -> None:
    """Leaves the numbers, the student's weights and what else the method exports in the folder."""
    numbers = json.dumps(run.numbers, indent=2) + "\n"
    write_text(run.folder / NUMBERS, numbers)
    if run.best is not None:
        best = json.dumps(vars(run.best), indent=2) + "\n"
        write_text(run.folder / NUMBERS_OF_BEST, best)
    parts = {WEIGHTS: plain_model(run.detector)}
    parts |= {f"{name}.safetensors": part for name, part in method.export().items()}
    for name, part in parts.items():
        export_weights(run.folder / name, part, run.metadata())


def draw_report(
    run: Run,
    evaluation: Evaluation,
    method: Method,
    train_set: DetectionDataset,
    console: Console,
) -> None:
    """Leaves the page and the tables in the folder; a fault in them costs nothing else."""
    try:
        # matplotlib takes seconds, which --help need not
        from sssd.report.results import write_tables
        from sssd.report.run import write_report

        write_tables(evaluation, run.folder)
        path = run.folder / REPORT
        failed = write_report(path, run, evaluation, train_set=train_set, method=method)
    except Exception as error:  # whatever it is, the weights and numbers of a long run are there
        failed = [f"{type(error).__name__}: {error}"]
    for what in failed:
        console.print(
            f"the report was not written: {what}; weights and numbers are in {run.folder}",
            soft_wrap=True,
        )
