"""Command: detections of a trained detector in images and videos, as json and as pictures.

Example:
    python -m sssd.predict runs/demo photo.jpg folder/ 'scans/**/*.png' --out found
    python -m sssd.predict runs/demo street.mp4 --out found --json found/all.json
    python -m sssd.predict detector.onnx photo.jpg --out found     # of sssd.export
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import sssd.extras  # noqa: F401  it comes before what may be missing

# isort: split
import tyro

from sssd.commands import FAILED, WRONG_USE, exit_on, plain_output
from sssd.data.settings import require_range
from sssd.engine.files import RunError, Weights, is_stream, require_place, write_text
from sssd.engine.sizes import require_number

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from sssd.engine.interrupt import StopSignals
    from sssd.engine.prediction import Detections, Predictor

WRITE_EVERY = 10.0  # seconds
FRAMES = 4  # of a video at a time


@dataclass(frozen=True)
class Predict:
    """Detect objects in images and videos. Prints a line per file; --out draws pictures, --json
    writes a file.

    Files that cannot be read are skipped and listed at the end; the exit status is then 1. Ctrl-C
    stops after the current file and keeps the results so far. Pictures drawn by this command are
    never read.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of a run, or an .onnx file from sssd.export."""

    images: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="IMAGE ...", help_behavior_hint="(required)"),
    ]
    """Image and video files, folders (searched recursively) and quoted globs ('**' too). Videos
    need `pip install 'sssd[video]'`."""

    out: Path | None = None
    """Folder for pictures (OUT/NAME.png) and videos (OUT/NAME.mp4) with the boxes drawn; of boxes
    that overlap by half, only the one with the highest score."""

    json: Path | None = None
    """Write a COCO json: images (for a video its frames, with their time in seconds), categories,
    and annotations with scores and bbox in pixels of the image."""

    weights: Weights = "last"
    """last: the final weights. best: those with the highest validation AP."""

    threshold: float | None = None
    """Minimum score of a detection; by default the score with the best F1 on the run's validation
    set, computed with the final weights, or 0.3 if the run has none."""

    max_detections: int | None = None
    """The most objects that are found in an image, all classes together; by default 100, retinanet
    300."""

    pixel_range: tuple[float, float] | None = None
    """Pixel values of black and white in images with more than 8 bits; by default as in
    training."""

    device: str = "auto"
    """"auto" uses a GPU if there is one. An .onnx file runs on the CPU."""

    def __post_init__(self) -> None:
        """Refuses calls without images, and numbers without meaning."""
        if not self.images:
            raise ValueError("no images were named; give files, folders or globs")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"--threshold is {self.threshold}; it must lie in [0, 1]")
        require_number("--max-detections", self.max_detections, 1)
        require_range("--pixel-range", self.pixel_range)


def main(arguments: Sequence[str] | None = None) -> int:
    """Detects, writes and draws; returns the exit status."""
    plain_output()
    with exit_on(WRONG_USE, ValueError, OSError, ImportError):
        command = tyro.cli(Predict, prog="python -m sssd.predict", args=arguments)

        # With torch, seconds that --help need not take.
        from sssd.engine.prediction_files import find_files, is_video, target_paths
        from sssd.engine.video import require_av

        if command.json is not None:
            require_place("--json", command.json)
        files = find_files(command.images)
        targets: list[Path | None] = [None] * len(files)
        if command.out is not None:
            targets = [*target_paths(files, command.out)]
        if any(map(is_video, files)):
            require_av()
        predictor = open_predictor(command)
    with exit_on(FAILED, RunError):
        return _predict_all(predictor, dict(zip(files, targets, strict=True)), command.json)


def open_predictor(command: Predict) -> Predictor:
    """What the command detects with."""
    from sssd.engine.prediction import Predictor

    if command.run.suffix.lower() == ".onnx":
        from sssd.engine.onnx_predictor import open_onnx

        if command.device not in ("auto", "cpu"):
            raise ValueError(f"--device is {command.device}; an .onnx file runs on the CPU only")
        if command.max_detections is not None:
            raise ValueError(
                f"--max-detections is {command.max_detections}; an .onnx file has its own, which "
                "`python -m sssd.export` sets"
            )
        if command.weights != "last":
            raise ValueError(
                f"--weights is {command.weights}; an .onnx file has only one set of weights"
            )
        predictor = open_onnx(command.run, command.threshold)
    else:
        from sssd.engine.runs import load

        run = load(command.run, command.device, weights=command.weights)
        if command.max_detections is not None:
            run.detector.max_detections = command.max_detections
        predictor = Predictor.of(run, command.threshold)
    if command.pixel_range is None:
        return predictor
    return dataclasses.replace(predictor, pixel_range=command.pixel_range)


class _Document:
    """The COCO json of what was found so far.

    It is written whatever ends the command, and now and then on the way, for what cannot be caught:
    the system kills who takes too much memory.
    """

    def __init__(self, path: Path | None, predictor: Predictor) -> None:
        self.path = path
        self.written = time.monotonic()
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        pairs = zip(predictor.category_ids, predictor.classes, strict=True)
        self.categories = [{"id": number, "name": name} for number, name in pairs]

    def add(self, file: Path, found: Detections, **more: Any) -> None:
        """Adds an image; writes the file if the last time is long ago."""
        image_id = len(self.images) + 1
        height, width = found.size
        size = {"width": width, "height": height}
        self.images.append({"id": image_id, "file_name": str(file), **size, **more})
        for row in found.to_coco(image_id):
            _, _, w, h = row["bbox"]
            number = len(self.annotations) + 1
            self.annotations.append({"id": number, **row, "area": w * h, "iscrowd": 0})
        if time.monotonic() - self.written > WRITE_EVERY:
            self.write()

    def write(self, last: bool = False) -> None:
        """Writes the file, if one is asked for; into a pipe or a device only the last time."""
        if self.path is None or (is_stream(self.path) and not last):
            return
        from sssd.data.coco_files import MARK

        parts = ("images", "categories", "annotations")
        rows = {part: ",\n".join(map(json.dumps, getattr(self, part))) for part in parts}
        text = ",\n".join(f'"{part}": [\n{lines}\n]' for part, lines in rows.items())
        write_text(self.path, f"{MARK}{text}\n}}\n")
        self.written = time.monotonic()


def _predict_all(
    predictor: Predictor, targets: dict[Path, Path | None], json_path: Path | None
) -> int:
    """Detects, draws and tells file by file; gives the exit status."""
    from sssd.engine.interrupt import StopSignals
    from sssd.engine.prediction_files import is_video

    document = _Document(json_path, predictor)
    document.write()  # a place that cannot be written is known before hours of work
    failed: list[str] = []
    done = 0
    with StopSignals() as stop:
        try:
            for file, target in targets.items():
                if stop.received:
                    break
                predict_file = _predict_video if is_video(file) else _predict_image
                try:
                    print(f"{file}: {predict_file(predictor, file, target, document, stop)}")
                except RunError:  # the disk is full, or not to be written: so it is for all
                    raise
                except Exception as error:  # unreadable, too large for the memory: the others go on
                    failed.append(_reason(file, error))
                done += 1
        finally:
            document.write(last=True)
    for reason in failed:
        print(f"error: {reason}", file=sys.stderr)
    if failed:
        print(f"error: {len(failed)} of {done} files failed", file=sys.stderr)
    if stop.received:
        print(f"stopped after {done} of {len(targets)} files", file=sys.stderr)
        return 128 + stop.received
    return FAILED if failed else 0


def _predict_image(
    predictor: Predictor, file: Path, target: Path | None, document: _Document, stop: StopSignals
) -> str:
    """Detects in an image, and draws; says what was found."""
    from sssd.data import read_image
    from sssd.engine.prediction_files import save_drawn

    pixels = read_image(file, predictor.pixel_range)
    (found,) = predictor.predict(pixels)
    if target is not None:
        save_drawn(_picture(predictor, pixels, found), target)
    document.add(file, found)
    return str(found)


def _predict_video(
    predictor: Predictor, file: Path, target: Path | None, document: _Document, stop: StopSignals
) -> str:
    """Detects in the frames of a video, and draws them; says what was found."""
    from torch import from_numpy

    from sssd.engine.video import VideoWriter, frames

    counts: Counter[str] = Counter()
    number = 0
    moving = frames(file)
    with VideoWriter(target) if target is not None else nullcontext() as video:
        while not stop.received and (batch := list(islice(moving, FRAMES))):
            pixels = [pixels for _, pixels in batch]
            found_in = predictor.predict(pixels, FRAMES)
            for (seconds, image), found in zip(batch, found_in, strict=True):
                if video is not None:
                    tensor = from_numpy(image.transpose(2, 0, 1).copy())
                    video.add(seconds, _picture(predictor, tensor, found))
                document.add(file, found, frame=number, seconds=round(seconds, 6))
                counts.update(found.names)
                number += 1
    objects = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    return f"{number} frames: {objects or 'nothing'}"


def _picture(predictor: Predictor, pixels: Tensor, found: Detections) -> Image.Image:
    """An image with what was found in it."""
    from sssd.engine.drawing import draw, shown

    return draw(pixels, shown(found.found()), predictor.classes)


def _reason(file: Path, error: Exception) -> str:
    """Why a file was left out, in a line."""
    said = (str(error).splitlines() or [""])[0]
    named = isinstance(error, ValueError) and str(file) in said
    return said if named else f"{file}: {type(error).__name__}: {said}"


if __name__ == "__main__":
    sys.exit(main())
