"""Command: the 12 COCO numbers of a trained detector.

Example:
    python -m sssd.evaluate runs/demo                          # on the run's own validation set
    python -m sssd.evaluate runs/mine --data.val DIR/annotations/instances_test.json
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import sssd.extras  # noqa: F401  it comes before what may be missing

# isort: split
import tyro
from rich.console import Console
from rich.progress import track

from sssd.commands import FAILED, WRONG_USE, exit_on, plain_console, plain_output
from sssd.data import DataError, DetectionDataset, WorkerKilled, evaluation_loader
from sssd.data.build import build_validation_set
from sssd.engine.evaluate import evaluate_detections, table, to_coco
from sssd.engine.inference import detect
from sssd.engine.runs import Run, evaluation_data, load
from sssd.engine.state import RunError, write_atomically


@dataclass(frozen=True)
class EvaluationData:
    """What to evaluate on; what is not given is the run's own."""

    val: Path | None = None
    """A COCO json, a data.yaml or a folder of files; by default the run's validation set."""

    val_images: Path | None = None
    """Folder of its images; by default the usual place of the format."""

    val_split: str | None = None
    """Which part of a folder or data.yaml, such as test; by default the run's, or "val"."""

    format: Literal["coco", "voc", "yolo", "demo"] | None = None
    """Format of the files, by default known by their path."""

    pixel_range: tuple[float, float] | None = None
    """What is black and what is white in images of more than 8 bits; by default as in training."""

    on_bad_data: Literal["raise", "drop"] | None = None
    """Stop at bad records, or evaluate without them."""


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a trained detector: the 12 COCO numbers. Only --out writes a file."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of a run."""

    data: EvaluationData = field(default_factory=EvaluationData)

    engine: Literal["pycocotools", "faster-coco-eval"] = "pycocotools"
    """pycocotools for numbers to report; faster-coco-eval gives the same ones faster."""

    out: Path | None = None
    """File to write the numbers to, as json."""

    batch_size: int | None = None
    """Images at a time; by default as in training."""

    workers: int = 0
    """Processes that load images."""

    device: str = "auto"
    """"auto" takes a GPU where there is one."""

    def __post_init__(self) -> None:
        """Refuses numbers without meaning."""
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"--batch-size is {self.batch_size}; at least 1")
        if self.workers < 0:
            raise ValueError(f"--workers is {self.workers}; at least 0")


def main(arguments: Sequence[str] | None = None, prog: str = "python -m sssd.evaluate") -> int:
    """Evaluates and prints; returns the exit status."""
    plain_output()
    console = plain_console()
    with exit_on(WRONG_USE, ValueError, OSError, ImportError):
        command = tyro.cli(Evaluate, prog=prog, args=arguments)
        run = load(command.run, command.device)
        dataset = build_validation_set(evaluation_data(run, **asdict(command.data)), console)
        category_ids = run.category_ids_in(dataset)
    if None in category_ids:
        missing = [c for c, i in zip(run.classes, category_ids, strict=True) if i is None]
        console.print(
            f"{Path(dataset.source).name} has {len(run.classes) - len(missing)} of the run's "
            f"{len(run.classes)} classes, known by their names; detections of the others are left "
            f"out: {', '.join(missing)}",
            soft_wrap=True,
        )
    with exit_on(FAILED, RunError, DataError, WorkerKilled, ImportError):
        results = _results(run, dataset, category_ids, command, console)
        numbers = evaluate_detections(dataset.ground_truth(), results, command.engine)
        if command.out is not None:
            text = json.dumps(numbers, indent=2) + "\n"
            write_atomically(command.out, lambda file: file.write(text.encode()))
    console.print(table(numbers, title=f"{len(dataset)} images of {Path(dataset.source).name}"))
    return 0


def _results(
    run: Run,
    dataset: DetectionDataset,
    category_ids: list[int | str | None],
    command: Evaluate,
    console: Console,
) -> list[dict[str, object]]:
    loader = evaluation_loader(dataset, command.batch_size or run.batch_size, command.workers)
    batches = track(
        loader, "evaluating", console=console, transient=True, disable=not console.is_terminal
    )
    with loader:
        found = detect(run.detector, batches)
    return to_coco(found.keys(), found.values(), category_ids)


if __name__ == "__main__":
    sys.exit(main())
