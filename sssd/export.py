"""Command: a trained detector as a file for other programs.

Example:
    python -m sssd.export runs/demo --out detector.onnx
    python -m sssd.export runs/demo --out detector.safetensors
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import sssd.extras  # noqa: F401  it comes before what may be missing

# isort: split
import tyro

from sssd.commands import FAILED, WRONG_USE, exit_on, plain_console, plain_output
from sssd.engine.files import RunError, Weights, require_place, write_atomically
from sssd.engine.sizes import require_number

if TYPE_CHECKING:
    from torch import Tensor

    from sssd.engine.runs import Run

SMALLEST = 32  # pixels a side of an image


@dataclass(frozen=True)
class Export:
    """Export a trained detector to a file for other programs.

    FILE.safetensors: the state dict of the plain torchvision model.

    FILE.onnx: image (3, H, W) float32 RGB in [0, 1] -> boxes (n, 4) xyxy in pixels of the image,
    scores (n,) and labels (n,), 0 for the first class. Resizing, normalization and NMS are
    included. H and W are free unless --size is given. The file is written only if onnxruntime and
    PyTorch find the same objects, in images of three sizes or of the one that --size fixes.

    Both have metadata: classes, sizes, normalization, and more. docs/export.md shows how to use
    them without sssd.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of a run."""

    out: Path
    """File to write; its suffix chooses the format."""

    weights: Weights = "last"
    """last: the final weights. best: those with the highest validation AP."""

    size: tuple[int, int] | None = None
    """onnx: fixed height and width of all images, for runtimes that need them; by default any
    size."""

    max_detections: int | None = None
    """onnx: the most objects that are found in an image, all classes together; by default 100,
    retinanet 300."""

    image: Path | None = None
    """onnx: image used to check the file; by default the first one of the run's validation set."""

    def __post_init__(self) -> None:
        """Refuses formats that are not known."""
        if self.out.suffix not in (".onnx", ".safetensors"):
            raise ValueError(f"--out {self.out}: its name must end in .onnx or .safetensors")
        of_onnx = {
            "--size": self.size,
            "--max-detections": self.max_detections,
            "--image": self.image,
        }
        for flag, value in of_onnx.items():
            if value is not None and self.out.suffix != ".onnx":
                raise ValueError(f"{flag} has no effect here; it needs an --out that ends in .onnx")
        require_number("--max-detections", self.max_detections, 1)
        if self.size is not None and min(self.size) < SMALLEST:
            raise ValueError(f"--size is {self.size}; both must be at least {SMALLEST} pixels")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exports and checks; returns the exit status."""
    plain_output()
    with exit_on(WRONG_USE, ValueError, OSError, ImportError):
        command = tyro.cli(Export, prog="python -m sssd.export", args=arguments)

        from sssd.engine import onnx_file  # with torch, seconds that --help need not take
        from sssd.engine.runs import load, plain_model
        from sssd.engine.state import export_weights

        require_place("--out", command.out)
        as_onnx = command.out.suffix == ".onnx"
        if as_onnx:
            _require_onnx()
        run = load(command.run, weights=command.weights)
        if command.max_detections is not None:
            run.detector.max_detections = command.max_detections
        image = _image(run, command) if as_onnx else None
        metadata = run.metadata()
        if as_onnx:
            metadata |= onnx_file.described(run, command.size)
    console = plain_console()
    with exit_on(FAILED, RunError):
        if image is None:
            export_weights(command.out, plain_model(run.detector), metadata)
        else:
            written = onnx_file.to_onnx(run.detector, image, metadata, command.size is None)
            images = [image] if command.size else [image, *onnx_file.other_sizes(image, SMALLEST)]
            counts = [onnx_file.check_onnx(written, run.detector, one) for one in images]
            write_atomically(command.out, lambda file: file.write(written))
            for one, count in zip(images, counts, strict=True):
                console.print(
                    f"{onnx_file.size_of(one)}: onnxruntime finds the same {count} as PyTorch",
                    soft_wrap=True,
                )
            if not all(counts):
                print(
                    "warning: no objects were found to compare; try another --image",
                    file=sys.stderr,
                )
    console.print(f"written: {command.out}", soft_wrap=True)
    return 0


def _image(run: Run, command: Export) -> Tensor:
    from torchvision.transforms.v2.functional import resize

    from sssd.data import DataError, read_image
    from sssd.data.build import build_validation_set

    path = command.image
    if path is None:
        try:
            path = Path(build_validation_set(run.data).image_path(0))
        except (DataError, OSError, IndexError) as error:
            raise ValueError(
                f"the run's own images cannot be used to check the file ({error}); name an image "
                "with --image"
            ) from error
    image = read_image(path, run.data.pixel_range).float() / 255
    return image if command.size is None else resize(image, list(command.size))


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"export to ONNX needs the onnx extra ({error}): pip install 'sssd[onnx]'"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
