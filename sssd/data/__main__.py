"""Command line of the data: `python -m sssd.data check PATH`, `python -m sssd.data demo`."""

from __future__ import annotations

import itertools
import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sssd.commands import plain_console, plain_output
from sssd.data.settings import Format, require_range


@dataclass(frozen=True)
class Check:
    """Check a data set: categories, counts, sizes, and all errors with file and record.

    The exit status is 1 if records must be fixed or left out.
    """

    path: tyro.conf.Positional[Path]
    """A COCO json, a data.yaml, an obj.data, a list of images, or a folder of COCO, VOC or YOLO
    files."""

    images: Path | None = None
    """Folder of the images; by default where the format usually has them."""

    split: str = "train"
    """Which split of a folder or data.yaml, by any of its usual names (val also finds valid/); data
    without splits are used whole."""

    format: Format | None = None
    """Format of the files; by default detected from the path."""

    pixel_range: tuple[float, float] | None = None
    """Pixel values of black and white in images with more than 8 bits (16-bit, float)."""

    decode: bool = False
    """Open every image again, and decode every JPEG completely, not only those that look
    truncated."""

    every: bool = False
    """List all errors and notes, not only the first five of each kind."""

    json: Path | None = None
    """Also write all errors and notes to this json file."""

    def __post_init__(self) -> None:
        """Refuses what has no meaning."""
        require_range("--pixel-range", self.pixel_range)


@dataclass(frozen=True)
class Demo:
    """Generate the demo data if they do not exist yet, and print where they are."""

    root: Path | None = None
    """Cache folder; by default $SSSD_CACHE, $XDG_CACHE_HOME/sssd or ~/.cache/sssd."""


Command = (
    Annotated[Check, tyro.conf.subcommand("check")] | Annotated[Demo, tyro.conf.subcommand("demo")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; None: those of this process.

    Returns:
        Exit status: 0, 1 for data with errors, 2 for what cannot be read at all.
    """
    plain_output()
    command = tyro.cli(Command, prog="python -m sssd.data", args=arguments)
    try:
        return _demo(command) if isinstance(command, Demo) else _check(command)
    except (ValueError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _demo(command: Demo) -> int:
    from sssd.data.demo import demo_data

    for name, path in demo_data(command.root)._asdict().items():
        print(f"{name}: {path}")
    return 0


def _check(command: Check) -> int:
    # With torch, seconds that --help need not take.
    from sssd.data.checks import check, lacks_objects
    from sssd.data.coco_files import refuse_to_overwrite
    from sssd.data.formats import read_dataset

    refuse_to_overwrite("--json", command.json)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the report says more
        dataset = read_dataset(
            command.path, command.images, command.split, command.format, command.pixel_range
        )
    report = check(dataset, decode=command.decode)
    console = plain_console()
    console.print(report)
    if command.path.is_dir() or dataset.part:  # else a json file, which is one split
        console.print(f"this is the split {command.split}, if the data have any (--split)")
    lacks = lacks_objects(dataset)
    for line in itertools.chain(
        (f"error: {fault}" for fault in lacks), report.lines(None if command.every else 5)
    ):
        console.print(line, soft_wrap=True)
    if command.json is not None:
        faults = [asdict(fault) for fault in [*lacks, *report.faults]]
        document = {"summary": report.summary(), "faults": faults}
        command.json.parent.mkdir(parents=True, exist_ok=True)
        command.json.write_text(json.dumps(document, indent=2))
    return 1 if report.errors or lacks else 0


if __name__ == "__main__":
    sys.exit(main())
