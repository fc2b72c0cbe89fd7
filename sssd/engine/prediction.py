"""Detections in images of any kind: what `Run.predict` and `python -m sssd.predict` give."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sssd.data.faults import Id
from sssd.data.images import read_image, to_pixels
from sssd.engine.evaluate import to_coco
from sssd.engine.files import THRESHOLDS
from sssd.engine.record import read_json

if TYPE_CHECKING:
    from sssd.engine.runs import Run

USUAL_THRESHOLD = 0.3  # where there is no such file

ImageLike = str | Path | Image.Image | np.ndarray | Tensor


class Detection(NamedTuple):
    """One object.

    Attributes:
        box: x1, y1, x2, y2 in pixels of the image.
        score: in 0..1.
        label: index of its class, 0 for the first.
        name: of its class.
    """

    box: tuple[float, float, float, float]
    score: float
    label: int
    name: str


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """The objects found in an image, best first; iteration gives each as a `Detection`.

    Attributes:
        boxes: (n, 4) fp32 xyxy in pixels of the image, on the CPU.
        scores: (n,) fp32 in 0..1.
        labels: (n,) int64, 0 for the first class.
        classes: names of the C classes.
        category_ids: the C ids that the training data have for them.
        size: height and width of the image in pixels.
        file: the image's file, if it was given by its path.

    Example:
        >>> for found in run.predict("street.jpg")[0]:  # doctest: +SKIP
        ...     print(found.name, found.score, found.box)
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    classes: Sequence[str]
    category_ids: Sequence[Id]
    size: tuple[int, int]
    file: Path | None = None

    @property
    def names(self) -> list[str]:
        """The class of each object."""
        return [self.classes[label] for label in self.labels.tolist()]

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        columns = self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), self.names
        for box, score, label, name in zip(*columns, strict=True):
            yield Detection(tuple(box), score, label, name)

    def __str__(self) -> str:
        """How many of each class, most frequent first: "3 car, 1 dog"."""
        counts = Counter(self.names).most_common()
        return ", ".join(f"{count} {name}" for name, count in counts) or "nothing"

    def __repr__(self) -> str:
        """For a notebook: "Detections(3 car, 1 dog in street.jpg, 480 x 640)", height first."""
        place = f" in {self.file}" if self.file else ""
        height, width = self.size
        return f"Detections({self}{place}, {height} x {width})"

    def found(self) -> dict[str, Tensor]:
        """Boxes, scores and labels by these names, as a detector gives them."""
        return {"boxes": self.boxes, "scores": self.scores, "labels": self.labels}

    def to_coco(self, image_id: Id = 1) -> list[dict[str, Any]]:
        """COCO results: dicts of image_id, category_id, bbox (x, y, width, height) and score."""
        return to_coco([image_id], [self.found()], self.category_ids)


@dataclass(frozen=True)
class Predictor:
    """Something that detects objects: a run's detector, or an exported file.

    Attributes:
        detect: images (3, H, W) fp32 in 0..1 -> for each its boxes (n, 4) xyxy in its pixels,
            scores (n,) and labels (n,).
        classes: names of the C classes.
        category_ids: the C ids that the training data have for them.
        threshold: the score from which on a detection counts.
        max_detections: the most that `detect` gives of an image; None: not known.
        pixel_range: what is black and white in images of more than 8 bits, by default.
        device: where images are put.
    """

    detect: Callable[[list[Tensor]], list[dict[str, Tensor]]]
    classes: Sequence[str]
    category_ids: Sequence[Id]
    threshold: float
    max_detections: int | None = None
    pixel_range: tuple[float, float] | None = None
    device: torch.device | str = "cpu"

    @staticmethod
    def of(run: Run, threshold: float | None = None) -> Predictor:
        """The detector of a run; by default with the threshold of its best F1."""
        if threshold is None:
            threshold = read_threshold(run.folder)
        return Predictor(
            run.detector.eval(),
            run.classes,
            run.category_ids,
            checked_threshold(threshold),
            run.detector.max_detections,
            run.data.pixel_range,
            next(run.detector.parameters()).device,
        )

    def predict(
        self,
        images: ImageLike | Iterable[ImageLike],
        batch_size: int = 1,
    ) -> list[Detections]:
        """Detects objects in images: see `Run.predict`."""
        return list(self.stream(images, batch_size))

    def stream(
        self,
        images: ImageLike | Iterable[ImageLike],
        batch_size: int = 1,
    ) -> Iterator[Detections]:
        """The same one by one, as they are found: no more than a batch is in the memory."""
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size is {batch_size!r}; it must be a whole number, 1 or more")
        rows = enumerate(_one_by_one(images))
        while batch := list(islice(rows, batch_size)):
            files = [Path(x) if isinstance(x, (str, Path)) else None for _, x in batch]
            pixels = [to_image(image, f"images[{i}]", self.pixel_range) for i, image in batch]
            with torch.no_grad():
                outputs = self.detect([self._on_device(image) for image in pixels])
            for output, image, file in zip(outputs, pixels, files, strict=True):
                kept = {k: v[output["scores"] >= self.threshold].cpu() for k, v in output.items()}
                if len(kept["scores"]) == self.max_detections:
                    warnings.warn(
                        f"an image has {self.max_detections} objects, the most that this detector "
                        "finds in one, so there may be more; --max-detections of sssd.predict and "
                        "sssd.export, in Python run.detector.max_detections, raises this",
                        stacklevel=2,
                    )
                height, width = image.shape[1:]
                yield Detections(
                    kept["boxes"],
                    kept["scores"],
                    kept["labels"],
                    self.classes,
                    self.category_ids,
                    (height, width),
                    file,
                )

    def _on_device(self, image: Tensor) -> Tensor:
        image = image.to(self.device)  # bytes travel faster than floats
        return image.float() / 255 if image.dtype == torch.uint8 else image


def checked_threshold(threshold: float, name: str = "threshold") -> float:
    """A score in 0..1.

    Raises:
        TypeError, ValueError: it is none.
    """
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float, np.number)):
        raise TypeError(f"{name} is {threshold!r}; it must be a number in [0, 1]")
    if not 0 <= threshold <= 1:
        raise ValueError(f"{name} is {threshold}; it must lie in [0, 1]")
    return float(threshold)


def read_threshold(folder: Path) -> float:
    """The score with the best F1 on a run's validation set, of all classes together.

    0.3 and a warning where the run has no such file.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / THRESHOLDS
    if not path.exists():
        warnings.warn(
            f"{folder} has no {THRESHOLDS}, the scores with the best F1: a score threshold of "
            f"{USUAL_THRESHOLD} is used",
            stacklevel=2,
        )
        return USUAL_THRESHOLD
    try:
        return checked_threshold(read_json(path).get("all", "missing"), '"all"')
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def _one_by_one(images: Any) -> Iterable[Any]:
    single = (str, Path, Image.Image)
    if isinstance(images, single) or (isinstance(images, (np.ndarray, Tensor)) and images.ndim < 4):
        return [images]
    if not isinstance(images, Iterable) or isinstance(images, (bytes, dict)):
        raise TypeError(
            f"images is a {type(images).__name__}; pass paths, PIL images, arrays (H, W, 3) or "
            "tensors (3, H, W), one or a list"
        )
    return images


def to_image(image: Any, name: str, pixel_range: tuple[float, float] | None = None) -> Tensor:
    """An image of any kind as a tensor (3, H, W), uint8 or fp32 in 0..1.

    Args:
        image: a path, a PIL image, an array (H, W), (H, W, 3) or (H, W, 4), or a tensor.
        name: what messages call it.
        pixel_range: of images of more than 8 bits.

    Raises:
        TypeError, ValueError: it is none of these.
        DataError: a file that cannot be read.
    """
    if isinstance(image, (str, Path)):
        return read_image(image, pixel_range)
    if isinstance(image, np.ndarray):
        image = _from_array(image, name)
    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise ValueError(f"{name} is an image of {image.width} x {image.height} pixels")
        try:
            return to_pixels(image, pixel_range)
        except (ValueError, OSError) as error:  # a file that ends early is an OSError
            raise ValueError(f"{name}: {error}") from None
    if isinstance(image, Tensor):
        return _from_tensor(image, name)
    raise TypeError(
        f"{name} is a {type(image).__name__}; pass a path, a PIL image, an array (H, W, 3) or a "
        "tensor (3, H, W)"
    )


def _from_array(image: np.ndarray, name: str) -> Image.Image:
    shape = f"{name} is an array {image.shape} of {image.dtype}"
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    coloured = image.ndim == 3 and image.shape[2] in (3, 4)
    if image.size == 0 or not (image.ndim == 2 or coloured):
        raise ValueError(f"{shape}; pass (H, W, 3) of uint8 in RGB order, or grey (H, W)")
    deep = image.ndim == 2 and image.dtype == np.uint16
    if image.dtype != np.uint8 and not deep:
        raise TypeError(
            f"{shape}; pass uint8 (grey also uint16), or floats in 0..1 as a tensor (3, H, W)"
        )
    return Image.fromarray(image)


def _from_tensor(image: Tensor, name: str) -> Tensor:
    shape = f"{name} is a tensor {tuple(image.shape)} of {image.dtype}"
    if image.ndim == 2:
        image = image[None]
    if image.ndim != 3 or image.shape[0] not in (1, 3, 4) or image.numel() == 0:
        raise ValueError(f"{shape}; pass (3, H, W) in RGB order, or grey (1, H, W)")
    if image.dtype == torch.uint8:
        pixels = image
    elif image.is_floating_point():
        pixels = image.detach().float()
        low, high = pixels.amin().item(), pixels.amax().item()
        if not (low >= 0 and high <= 1):  # NaN is neither
            raise ValueError(
                f"{shape} with values from {low:g} to {high:g}; pass floats in 0..1, or uint8: the "
                "detector normalizes them itself"
            )
    else:
        raise TypeError(f"{shape}; pass uint8, or floats in 0..1")
    # An alpha channel is dropped, as that of a file is.
    return pixels.as_subclass(Tensor)[:3].expand(3, -1, -1)
