"""Command: the 12 COCO numbers of a trained detector.

Example:
    python -m sssd.evaluate runs/demo                          # on the run's own validation set
    python -m sssd.evaluate runs/demo --teacher                # also the implicit teacher
    python -m sssd.evaluate runs/mine --data.val DIR/annotations/instances_test.json
    python -m sssd.evaluate runs/mine --report page.html       # the same report as after training
    python -m sssd.evaluate runs/plain runs/sssd               # two runs and their difference
"""

from __future__ import annotations

import copy
import itertools
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import sssd.extras  # noqa: F401  it comes before what may be missing

# isort: split
import tyro

from sssd.commands import FAILED, WRONG_USE, exit_on, plain_console, plain_output
from sssd.data.settings import Format, OnBadData
from sssd.engine.files import RunError, Weights, require_place, write_text
from sssd.engine.settings import CocoEvaluator
from sssd.engine.sizes import SIDES, require_number

if TYPE_CHECKING:
    from rich.console import Console

    from sssd.data import DetectionDataset
    from sssd.engine.inference import Evaluation
    from sssd.engine.runs import Run


@dataclass(frozen=True)
class EvaluationData:
    """Data to evaluate on; the defaults are those of the run."""

    val: Path | None = None
    """A COCO json, a data.yaml or a folder; by default the run's validation set."""

    val_images: Path | None = None
    """Folder of the images; by default where the format usually has them."""

    val_split: str | None = None
    """Which split of a folder or data.yaml, such as test; by default the run's, or "val"."""

    format: Literal[Format, "demo"] | None = None
    """Format of the files; by default detected from the path."""

    pixel_range: tuple[float, float] | None = None
    """Pixel values of black and white in images with more than 8 bits; by default as in
    training."""

    on_bad_data: OnBadData | None = None
    """What to do with bad records: raise lists them and stops, drop evaluates without them. By
    default as in training."""


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a trained detector: the 12 COCO numbers, and AP by class. Two runs are compared on
    the same data. Files are written only if a flag asks for them.
    """

    runs: Annotated[
        tyro.conf.Positional[tuple[Path, ...]],
        tyro.conf.arg(metavar="RUN [RUN]", help_behavior_hint="(required)"),
    ]
    """Folder of a run, or two folders for a table of both and their difference."""

    data: EvaluationData = field(default_factory=EvaluationData)

    weights: Weights = "last"
    """last: the final weights. best: those with the highest validation AP. For two runs, of
    both."""

    engine: CocoEvaluator = "pycocotools"
    """COCO evaluator: pycocotools for numbers to report; faster-coco-eval gives the same numbers
    faster."""

    teacher: bool = False
    """Also evaluate the implicit teacher: detections from K_e, which sees the labels. It is the
    upper limit of what can be distilled."""

    min_size: int | None = None
    """Short side of the images in pixels; by default as in training, or scaled with --max-size."""

    max_size: int | None = None
    """Maximum long side of the images in pixels; by default as in training, or scaled with
    --min-size."""

    out: Path | None = None
    """Write the numbers to this json file; the teacher's are named "teacher/AP" and so on."""

    detections: Path | None = None
    """Write the detector's detections to this file, as COCO results."""

    report: Path | None = None
    """Write a report for these data to this file, like the report.html of training."""

    batch_size: int | None = None
    """Images per batch; by default as in training. Those of a batch are padded to one size, which
    can move AP a little; `predict` sees one at a time, as --batch-size 1."""

    workers: int = 0
    """Processes that load images."""

    device: str = "auto"
    """"auto" uses a GPU if there is one."""

    def __post_init__(self) -> None:
        """Refuses what has no meaning, before a run is read."""
        if not 1 <= len(self.runs) <= 2:
            raise ValueError(f"name the folder of one run, or of two; {len(self.runs)} were given")
        if len(self.runs) == 2 and self.files:
            raise ValueError(
                f"{next(iter(self.files))} works with one run only; leave it out, or name one run"
            )
        places = {flag: os.path.realpath(path) for flag, path in self.files.items()}
        for one, other in itertools.combinations(places, 2):
            if places[one] == places[other]:
                raise ValueError(f"{one} and {other} are the same file; give each its own name")
        require_number("--batch-size", self.batch_size, 1)
        require_number("--workers", self.workers, 0)
        require_number("--min-size", self.min_size, *SIDES)
        require_number("--max-size", self.max_size, *SIDES)
        if self.min_size and self.max_size and self.max_size < self.min_size:
            raise ValueError(
                f"--max-size is {self.max_size}, less than --min-size, which is {self.min_size}"
            )

    @property
    def files(self) -> dict[str, Path]:
        """What is to be written, by its flag."""
        given = {"--out": self.out, "--detections": self.detections, "--report": self.report}
        return {flag: path for flag, path in given.items() if path is not None}


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluates and prints; returns the exit status."""
    plain_output()
    with exit_on(WRONG_USE, ValueError, OSError, ImportError):
        command = tyro.cli(Evaluate, prog="python -m sssd.evaluate", args=arguments)

        # With torch, seconds that --help need not take.
        from sssd.data import DataError, WorkerKilled
        from sssd.engine.evaluate import METRICS
        from sssd.engine.runs import load
        from sssd.engine.tables import class_table, difference, table

        for flag, path in command.files.items():
            require_place(flag, path)
        console = plain_console()
        runs = [load(folder, command.device, weights=command.weights) for folder in command.runs]
        dataset = _same_data(runs, command, console)
        for run in runs:  # before the first one is evaluated
            run.category_ids_in(dataset)
            if command.teacher:
                run.teacher()
    with exit_on(FAILED, RunError, DataError, WorkerKilled, ImportError):
        found = [_evaluate(run, dataset, command, console) for run in runs]
    title = f"{len(dataset)} images of {Path(dataset.source).name}"
    if len(runs) == 2:
        names = [str(folder) for folder in command.runs]
        first, second = (one.numbers for one in found)
        console.print(difference(first, second, names, title))
        return 0
    numbers = found[0].numbers
    console.print(table(numbers, title=title))
    if command.teacher:
        taught = {name: numbers[f"teacher/{name}"] for name in METRICS}
        console.print(table(taught, title=f"teacher (given the labels): {title}"))
    if len(found[0].by_class) > 1:
        console.print(class_table(found[0].by_class))
    failed = _write(runs[0], found[0], command, console)
    for what in failed:
        print(f"error: {what}", file=sys.stderr)
    return FAILED if failed else 0


def _evaluate(
    run: Run, dataset: DetectionDataset, command: Evaluate, console: Console
) -> Evaluation:
    return run.evaluate(
        dataset,
        teacher=command.teacher,
        engine=command.engine,
        min_size=command.min_size,
        max_size=command.max_size,
        batch_size=command.batch_size,
        workers=command.workers,
        console=console,
    )


def _write(run: Run, evaluation: Evaluation, command: Evaluate, console: Console) -> list[str]:
    """Writes the files that flags ask for, each by itself; gives what could not be written."""
    texts = {
        "--out": lambda: json.dumps(evaluation.numbers, indent=2),
        "--detections": lambda: json.dumps(evaluation.detections),
    }
    failed = []
    for flag, path in command.files.items():
        try:
            if flag in texts:
                write_text(path, texts[flag]() + "\n")
            else:
                left_out = _report(run, evaluation, path, console)
                failed += [f"{flag}: the report was not written: {what}" for what in left_out]
        except RunError as error:
            failed.append(f"{flag}: {error}")
    return failed


def _report(run: Run, evaluation: Evaluation, path: Path, console: Console) -> list[str]:
    """Writes the page; gives what could not be drawn."""
    from sssd.engine.trained import method_of
    from sssd.report.run import write_report

    method = None
    try:
        if run.weights == "last":  # which a checkpoint has
            method = method_of(run.folder, copy.deepcopy(run.detector))
    except RunError as error:  # its checkpoints: the maps are left out
        console.print(f"the report shows no maps of K: {error}", soft_wrap=True)
    return write_report(path, run, evaluation, method=method)


def _same_data(runs: Sequence[Run], command: Evaluate, console: Console) -> DetectionDataset:
    """What all runs are evaluated on.

    Raises:
        ValueError: they have validation sets of their own that differ.
    """
    from sssd.data.build import build_validation_set
    from sssd.engine.runs import evaluation_data

    wanted = dict.fromkeys(evaluation_data(run, **asdict(command.data)) for run in runs)
    sets = [build_validation_set(config, console) for config in wanted]
    if len({dataset.fingerprint for dataset in sets}) > 1:
        raise ValueError(
            f"the validation sets of {runs[0].folder} and {runs[1].folder} differ: choose the data "
            "to compare them on with --data.val"
        )
    return sets[0]


if __name__ == "__main__":
    sys.exit(main())
