"""Command: the 12 COCO numbers of a trained detector.

Example:
    python -m sssd.evaluate runs/demo                          # on the run's own validation set
    python -m sssd.evaluate runs/demo --teacher                # the implicit teacher beside it
    python -m sssd.evaluate runs/mine --data.val DIR/annotations/instances_test.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import sssd.extras  # noqa: F401  it comes before what may be missing

# isort: split
import tyro

from sssd.commands import FAILED, WRONG_USE, exit_on, plain_console, plain_output
from sssd.engine.files import RunError, write_atomically
from sssd.recipes import Config

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor, nn

    from sssd.data import DetectionDataset
    from sssd.engine.inference import Found
    from sssd.engine.runs import Run


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
    """Evaluate a trained detector: the 12 COCO numbers. Writes nothing but what flags ask for."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of a run."""

    data: EvaluationData = field(default_factory=EvaluationData)

    engine: Literal["pycocotools", "faster-coco-eval"] = "pycocotools"
    """pycocotools for numbers to report; faster-coco-eval gives the same ones faster."""

    teacher: bool = False
    """Evaluate the implicit teacher too: detections from K_e, which is given the labels. It is the
    ceiling of what can be distilled."""

    out: Path | None = None
    """File to write the numbers to, as json; the teacher's are named "teacher/AP" and so on."""

    detections: Path | None = None
    """File to write the detector's detections to, as COCO results."""

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
    with exit_on(WRONG_USE, ValueError, OSError, ImportError):
        command = tyro.cli(Evaluate, prog=prog, args=arguments)

        # With torch, seconds that --help need not take.
        from sssd.data import DataError, WorkerKilled
        from sssd.data.build import build_validation_set
        from sssd.engine.evaluate import evaluate_detections, table, to_coco
        from sssd.engine.runs import evaluation_data, load

        console = plain_console()
        run = load(command.run, command.device)
        dataset = build_validation_set(evaluation_data(run, **asdict(command.data)), console)
        category_ids = run.category_ids_in(dataset)
        teacher = _teacher(run) if command.teacher else None
    if None in category_ids:
        missing = [c for c, i in zip(run.classes, category_ids, strict=True) if i is None]
        console.print(
            f"{Path(dataset.source).name} has {len(run.classes) - len(missing)} of the run's "
            f"{len(run.classes)} classes, known by their names; detections of the others are left "
            f"out: {', '.join(missing)}",
            soft_wrap=True,
        )
    with exit_on(FAILED, RunError, DataError, WorkerKilled, ImportError):
        truth = dataset.ground_truth()
        own, taught = (
            to_coco(found.keys(), found.values(), category_ids)
            for found in _detections(run, teacher, dataset, command, console)
        )
        numbers = evaluate_detections(truth, own, command.engine)
        of_teacher = {} if teacher is None else evaluate_detections(truth, taught, command.engine)
        named = {f"teacher/{name}": value for name, value in of_teacher.items()}
        for path, content in ((command.out, numbers | named), (command.detections, own)):
            if path is not None:
                text = json.dumps(content, indent=2 if path == command.out else None) + "\n"
                write_atomically(path, lambda file, text=text: file.write(text.encode()))
    title = f"{len(dataset)} images of {Path(dataset.source).name}"
    console.print(table(numbers, title=title))
    if teacher is not None:
        console.print(table(of_teacher, title=f"the teacher, given the labels: {title}"))
    return 0


def _teacher(run: Run) -> nn.Module:
    """The fusion that the run has trained beside its detector."""
    from sssd.detectors.weights import load_weights
    from sssd.engine.record import read_settings
    from sssd.methods import build_method

    config = read_settings(run.folder, Config)
    teacher = build_method(run.detector, config.method, config.schedule).teacher
    if teacher is None:
        raise ValueError(
            f"--teacher: {run.folder} was trained by --method.name {config.method.name} and has "
            "no implicit teacher; sssd and lgd have one, unless lambda is 0"
        )
    load_weights(teacher, run.folder / "teacher.safetensors", "--teacher")
    return teacher.to(next(run.detector.parameters()).device)


def _detections(
    run: Run,
    teacher: nn.Module | None,
    dataset: DetectionDataset,
    command: Evaluate,
    console: Console,
) -> tuple[Found, Found]:
    from rich.progress import track

    from sssd.data import evaluation_loader
    from sssd.engine.inference import detect

    loader = evaluation_loader(dataset, command.batch_size or run.batch_size, command.workers)
    batches = track(
        loader, "evaluating", console=console, transient=True, disable=not console.is_terminal
    )
    with loader:
        return detect(run.detector, _labelled(batches, run, dataset), teacher)


def _labelled(
    batches: Iterable[tuple[list[Tensor], list[dict[str, Any]]]],
    run: Run,
    dataset: DetectionDataset,
) -> Iterator[tuple[list[Tensor], list[dict[str, Any]]]]:
    """The batches with the labels that the run has for the dataset's classes."""
    import torch

    known = [run.classes.index(n) if n in run.classes else -1 for n in dataset.classes]
    if dataset.classes == run.classes:  # two may have one name
        known = list(range(len(run.classes)))
    for images, targets in batches:
        yield images, [{**t, "labels": torch.tensor(known)[t["labels"]]} for t in targets]


if __name__ == "__main__":
    sys.exit(main())
