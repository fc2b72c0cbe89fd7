"""Command: detections of a trained detector in image files, as json and as pictures.

Example:
    python -m sssd.predict runs/demo photo.jpg folder/ 'scans/**/*.png' --out found
"""

import glob
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torchvision.ops import nms
from torchvision.transforms.v2.functional import to_pil_image
from torchvision.utils import draw_bounding_boxes

from sssd.commands import FAILED, WRONG_USE, exit_on, plain_warnings
from sssd.data import DataError, read_image
from sssd.engine.evaluate import to_coco
from sssd.engine.loop import choose_device
from sssd.engine.runs import Run, open_run
from sssd.engine.state import RunError, write_atomically


@dataclass(frozen=True)
class Predict:
    """Detect objects in images: OUT/detections.json and a picture for each image in OUT/images.

    The json is a list of COCO results: image_id (1, 2, ... in the order of the files), file_name,
    category_id, category, bbox (x, y, width, height in pixels of the image) and score. A file that
    can not be read is named and left out; the exit status is then 1.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of a run."""

    images: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="IMAGE ...", help_behavior_hint="(required)"),
    ]
    """Image files, folders (with everything below them) and quoted globs ('**' too)."""

    out: Path
    """Folder for the results."""

    min_score: float = 0.05
    """Leave out detections below this score."""

    draw_above: float = 0.3
    """Draw detections above this score, one box an object."""

    pixel_range: tuple[float, float] | None = None
    """What is black and white in images of more than 8 bits (float); by default as in training."""

    device: str = "auto"
    """"auto" takes a GPU where there is one."""

    def __post_init__(self) -> None:
        """Refuses calls without images, and numbers without meaning."""
        if not self.images:
            raise ValueError("name images: files, folders or globs")
        for name in ("min_score", "draw_above"):
            if not 0 <= getattr(self, name) <= 1:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} is {getattr(self, name)}; it must lie in [0, 1]")


def main(arguments: Sequence[str] | None = None, prog: str = "python -m sssd.predict") -> int:
    """Detects, writes and draws; returns the exit status."""
    console = Console()
    plain_warnings()
    with exit_on(WRONG_USE, ValueError, OSError, ImportError):
        command = tyro.cli(Predict, prog=prog, args=arguments)
        files = find_images(command.images)
        run = open_run(command.run, choose_device(command.device))
    with exit_on(FAILED, RunError):
        results, unreadable = _predict(run, files, command, console)
        text = "[\n" + ",\n".join(map(json.dumps, results)) + "\n]\n"
        path = command.out / "detections.json"
        write_atomically(path, lambda file: file.write(text.encode()))
    read = len(files) - len(unreadable)
    above = f"above {command.min_score:g} (--min-score)"
    console.print(f"{len(results)} detections {above} in {read} images: {path}", soft_wrap=True)
    if unreadable:
        print(f"error: {len(unreadable)} of {len(files)} files left out", file=sys.stderr)
        return FAILED
    return 0


def find_images(names: Sequence[str]) -> list[Path]:
    """Files that names stand for, each once, in order.

    A folder stands for every image below it, known by its ending; a name that does not exist but
    holds one of `*?[` for what it matches; anything else for itself.

    Raises:
        ValueError: a folder without images, or a glob that matches nothing.
    """
    files: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            found = _images_below(path)
            missing = "no image below this folder"
        elif not path.exists() and glob.has_magic(name):
            matches = [Path(match) for match in sorted(glob.glob(name, recursive=True))]
            found = [p for match in matches for p in (_images_below(match) or [match])]
            missing = "no file matches"
        else:
            found = [path]
        if not found:
            raise ValueError(f"{name}: {missing}")
        files += found
    return list(dict.fromkeys(files))


def _images_below(folder: Path) -> list[Path]:
    endings = Image.registered_extensions()
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in endings and p.is_file())


def _predict(
    run: Run, files: list[Path], command: Predict, console: Console
) -> tuple[list[dict[str, Any]], list[Path]]:
    """COCO results of all files, and the files that can not be read; draws on the way."""
    device = next(run.detector.parameters()).device
    category = dict(zip(run.category_ids, run.classes, strict=True))
    results: list[dict[str, Any]] = []
    unreadable: list[Path] = []
    picture_of = _unique_names(command.out / "images")
    rows = track(
        files, "detecting", console=console, transient=True, disable=not console.is_terminal
    )
    for image_id, path in enumerate(rows, start=1):
        try:
            pixels = read_image(path, command.pixel_range or run.data.pixel_range)
        except DataError as error:
            print(f"error: {error}", file=sys.stderr)
            unreadable.append(path)
            continue
        # One image at a time: in a batch, the padding would depend on the other images.
        with torch.no_grad():
            (found,) = run.detector([pixels.to(device).float() / 255])
        found = {name: value.cpu() for name, value in found.items()}
        kept = {name: value[found["scores"] >= command.min_score] for name, value in found.items()}
        results += [
            {**row, "file_name": str(path), "category": category[row["category_id"]]}
            for row in to_coco([image_id], [kept], run.category_ids)
        ]
        picture = draw(pixels, found, run.classes, command.draw_above)
        write_atomically(picture_of(path), lambda file, picture=picture: picture.save(file, "PNG"))
    return results, unreadable


def draw(
    pixels: Tensor, found: dict[str, Tensor], classes: Sequence[str], above: float
) -> Image.Image:
    """A picture of an image (uint8, 3 x H x W) with the detections above a score."""
    found = {name: value[found["scores"] > above] for name, value in found.items()}
    # One box an object: second guesses of the class would be drawn over the first.
    keep = nms(found["boxes"], found["scores"], iou_threshold=0.5).flip(0)  # the best on top
    if len(keep):
        rows = zip(found["labels"][keep].tolist(), found["scores"][keep].tolist(), strict=True)
        pixels = draw_bounding_boxes(
            pixels,
            found["boxes"][keep],
            [f"{classes[label]} {score:.2f}" for label, score in rows],
            colors="lime",
            width=max(1, round(max(pixels.shape) / 400)),
            label_colors="black",
            label_background_colors="lime",
        )
    return to_pil_image(pixels)


def _unique_names(folder: Path) -> Callable[[Path], Path]:
    """Gives each image file a picture's path in `folder`, also files of one name."""
    taken: set[str] = set()

    def candidates(stem: str) -> Iterator[str]:
        yield stem
        number = 2
        while True:
            yield f"{stem}-{number}"
            number += 1

    def picture_of(path: Path) -> Path:
        name = next(name for name in candidates(path.stem) if name not in taken)
        taken.add(name)
        return folder / f"{name}.png"

    return picture_of


if __name__ == "__main__":
    sys.exit(main())
