"""Command: detections of a trained detector in image files, as json and as pictures.

Example:
    python -m sssd.predict runs/demo photo.jpg folder/ 'scans/**/*.png' --out found
"""

import glob
import json
import os
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import sssd.extras  # noqa: F401  it comes before what may be missing

# isort: split
import torch
import tyro
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from rich.console import Console
from rich.progress import track

from sssd.commands import FAILED, WRONG_USE, exit_on, plain_console, plain_output
from sssd.data import DataError, read_image
from sssd.engine.drawing import draw, shown
from sssd.engine.evaluate import to_coco
from sssd.engine.files import RunError, write_atomically
from sssd.engine.interrupt import StopSignals
from sssd.engine.runs import Run, load

SIGNATURE = "sssd.predict"  # in the header of every picture it draws
WRITE_EVERY = 10.0  # seconds


@dataclass(frozen=True)
class Predict:
    """Detect objects in images: OUT/detections.json and a picture for each image in OUT/images.

    The json is a list of COCO results: image_id (1, 2, ... in the order of the files), file_name,
    category_id, category, bbox (x, y, width, height in pixels of the image) and score. A file that
    cannot be used is named and left out; the exit status is then 1. Ctrl-C ends after the image
    at hand, and what was found is kept. Pictures that this command drew are never read.
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
    plain_output()
    console = plain_console()
    with exit_on(WRONG_USE, ValueError, OSError, ImportError):
        command = tyro.cli(Predict, prog=prog, args=arguments)
        files = find_images(command.images)
        pictures = dict(zip(files, picture_paths(files, command.out / "images"), strict=True))
        run = load(command.run, command.device)
    with exit_on(FAILED, RunError):
        return _predict(run, pictures, command, console)


def find_images(names: Sequence[str]) -> list[Path]:
    """Files that names stand for, each once, in order.

    A folder stands for every image below it, known by its ending; a name that does not exist but
    holds one of `*?[` for what it matches; anything else for itself. Pictures that `predict` drew
    are left out, wherever they lie.

    Raises:
        ValueError: a folder without images, a glob that matches nothing, or a name that stands for
            nothing but pictures that `predict` drew.
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
        originals = [p for p in found if not was_drawn(p)]
        if not originals:
            raise ValueError(f"{name}: predict drew this itself; name the original images")
        if len(originals) < len(found):
            drawn = len(found) - len(originals)
            warnings.warn(f"{name}: {drawn} pictures that predict drew left out", stacklevel=2)
        files += originals
    return list(dict.fromkeys(files))


def _images_below(folder: Path) -> list[Path]:
    endings = Image.registered_extensions()
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in endings and p.is_file())


def was_drawn(path: Path) -> bool:
    """Whether a file is a picture of this command's, which says so in its header."""
    if path.suffix.lower() != ".png":
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return image.info.get("Software") == SIGNATURE
    except Exception:  # no image, or none that can be read: whoever reads it will say why
        return False


def picture_paths(files: Sequence[Path], folder: Path) -> list[Path]:
    """A path in `folder` for the picture of each image file, also of files of one name.

    Raises:
        ValueError: a file is there already that this command did not write.
    """
    paths: dict[Path, None] = {}
    last: dict[str, int] = defaultdict(lambda: 1)
    for file in files:
        stem = os.fsdecode(os.fsencode(file.stem)[:200])  # of the 255 bytes that a name may have
        path = folder / f"{stem}.png"
        while path in paths:
            last[stem] += 1
            path = folder / f"{stem}-{last[stem]}.png"
        if path.exists() and not was_drawn(path):
            raise ValueError(
                f"--out: {path} is there already and predict did not draw it; choose another folder"
            )
        paths[path] = None
    return list(paths)


def _predict(run: Run, pictures: dict[Path, Path], command: Predict, console: Console) -> int:
    """Detects, draws and writes image by image; gives the exit status.

    What was found so far is written whatever ends it, and now and then on the way, for what can
    not be caught: the system kills who takes too much memory.
    """
    path = command.out / "detections.json"
    results: list[dict[str, Any]] = []
    done = left_out = 0

    def write() -> None:
        text = "[\n" + ",\n".join(map(json.dumps, results)) + "\n]\n"
        write_atomically(path, lambda file: file.write(text.encode()))

    written = time.monotonic()
    with StopSignals() as stop:
        rows = track(
            takewhile(lambda _: not stop.received, pictures.items()),
            "detecting",
            total=len(pictures),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        try:
            for image_id, (file, picture) in enumerate(rows, start=1):
                try:
                    _predict_one(run, file, picture, image_id, command, results)
                except RunError:  # the disk is full, or not to be written: so it is for all
                    raise
                except Exception as error:  # unreadable, too large for the memory: the others go on
                    print(f"error: {_reason(file, error)}", file=sys.stderr)
                    left_out += 1
                done += 1
                if time.monotonic() - written > WRITE_EVERY:
                    write()
                    written = time.monotonic()
        finally:
            write()
    above = f"above {command.min_score:g} (--min-score)"
    console.print(
        f"{len(results)} detections {above} in {done - left_out} images: {path}", soft_wrap=True
    )
    if left_out:
        print(f"error: {left_out} of {done} files left out", file=sys.stderr)
    if stop.received and done < len(pictures):
        print(f"stopped after {done} of {len(pictures)} files", file=sys.stderr)
        return 128 + stop.received
    return FAILED if left_out else 0


def _predict_one(
    run: Run,
    file: Path,
    picture: Path,
    image_id: int,
    command: Predict,
    results: list[dict[str, Any]],
) -> None:
    """Adds the COCO results of a file to `results`, and draws its picture."""
    pixels = read_image(file, command.pixel_range or run.data.pixel_range)
    device = next(run.detector.parameters()).device
    # One image at a time: in a batch, the padding would depend on the other images.
    with torch.no_grad():
        (found,) = run.detector([pixels.to(device).float() / 255])
    found = {name: value.cpu() for name, value in found.items()}
    kept = {name: value[found["scores"] >= command.min_score] for name, value in found.items()}
    category = dict(zip(run.category_ids, run.classes, strict=True))
    results += [
        {**row, "file_name": str(file), "category": category[row["category_id"]]}
        for row in to_coco([image_id], [kept], run.category_ids)
    ]
    drawn = draw(pixels, shown(found, command.draw_above), run.classes)
    signature = PngInfo()
    signature.add_text("Software", SIGNATURE)
    write_atomically(picture, lambda to: drawn.save(to, "PNG", pnginfo=signature))


def _reason(file: Path, error: Exception) -> str:
    """Why an image was left out, in a line."""
    if isinstance(error, DataError):  # it names the file
        return str(error)
    said = (str(error).splitlines() or [""])[0]
    return f"{file}: {type(error).__name__}: {said}"


if __name__ == "__main__":
    sys.exit(main())
