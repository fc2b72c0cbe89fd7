"""A trained detector and its data, as returned by `sssd.fit` and `sssd.load`."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sssd.extras  # noqa: F401  it comes before what may be missing

# isort: split
from rich.console import Console
from safetensors import SafetensorError, safe_open
from torch import nn

from sssd import __version__
from sssd.commands import to_resume
from sssd.data import DataError, DetectionDataset
from sssd.data.build import build_validation_set
from sssd.data.dataset import some_of
from sssd.data.faults import Id
from sssd.data.files import split_named
from sssd.data.settings import DataConfig
from sssd.detectors import Detector, DetectorConfig, build_detector
from sssd.detectors.build import normalisation
from sssd.detectors.weights import load_weights
from sssd.engine import distributed
from sssd.engine.best import Best, read_best
from sssd.engine.distributed import choose_device
from sssd.engine.files import BEST, NUMBERS, WEIGHTS, Weights
from sssd.engine.inference import Evaluation, evaluate_detector
from sssd.engine.prediction import Detections, ImageLike, Predictor
from sssd.engine.record import (
    of_another_version,
    read_json,
    read_record,
    settings_from,
    with_changes,
)
from sssd.engine.settings import EngineConfig
from sssd.engine.sizes import image_size, require_number
from sssd.engine.trained import teacher_of

OF_EVALUATION = "val", "val_images", "val_split", "format", "pixel_range", "on_bad_data"
FILES = {"last": WEIGHTS, "best": BEST}  # of a run's weights


@dataclass(frozen=True)
class Run:
    """A trained detector and the data of its run.

    Attributes:
        folder: where checkpoints, metrics, weights and pictures are.
        detector: the detector, in evaluation mode.
        classes: names of its C classes.
        category_ids: their ids in the training data.
        config: settings of the detector; `weights` and `start_from` name nothing to load any more.
        data: what it was trained and evaluated on.
        batch_size: images that one process saw at a time.
        numbers: the 12 COCO numbers on the validation set at the end of training; None if it was
            stopped, or if `evaluation.json` is not in the folder.
        signal: the signal that stopped the training; None if it finished.
        best: the evaluation with the highest AP during training, whose weights are in
            `best.safetensors`; None before the first.
        weights: which weights the detector has: "last" or "best".
    """

    folder: Path
    detector: Detector = field(repr=False)
    classes: list[str]
    category_ids: list[Id]
    config: DetectorConfig
    data: DataConfig
    batch_size: int
    numbers: dict[str, float] | None = None
    signal: int | None = None
    best: Best | None = None
    weights: Weights = "last"

    def evaluate(
        self,
        data: DetectionDataset | Mapping[str, Any] | Path | str | None = None,
        *,
        teacher: bool = False,
        engine: str = "pycocotools",
        min_size: int | None = None,
        max_size: int | None = None,
        batch_size: int | None = None,
        workers: int = 0,
        console: Console | None = None,
    ) -> Evaluation:
        """Evaluates the detector, on its current device, on the run's validation set or on other
        data.

        Args:
            data: a COCO json, a data.yaml or a folder, used instead of the run's validation set; or
                a dict of `val`, `val_images`, `val_split`, `format`, `pixel_range` and
                `on_bad_data`; or a dataset. The defaults are those of the run.
            teacher: also evaluate the implicit teacher: detections from K_e, which is given the
                labels.
            engine: "pycocotools", or "faster-coco-eval" for the same numbers faster.
            min_size: short side of the images in pixels; by default the run's, or scaled with
                `max_size`.
            max_size: maximum long side; by default the run's, or scaled with `min_size`.
            batch_size: images per batch; by default as in training.
            workers: processes that load images, which end with the evaluation.
            console: where progress and messages about the data are printed; by default standard
                output.

        Raises:
            ValueError, TypeError: an invalid argument, bad data, classes that the detector does not
            know, or `teacher` for a run that has none. OSError: a file that cannot be read.
            WorkerKilled: the system killed a process that loads images.

        Example:
            >>> evaluation = sssd.load("runs/demo").evaluate()  # doctest: +SKIP
            >>> evaluation.numbers["AP"], evaluation.by_class[0].name  # doctest: +SKIP
        """
        require_number("batch_size", batch_size, 1)
        require_number("workers", workers, 0)
        console = console or distributed.console()
        if isinstance(data, DetectionDataset):
            dataset = data
        else:
            changes = data if isinstance(data, Mapping) else {"val": data}
            dataset = build_validation_set(evaluation_data(self, **changes), console)
        category_ids = self.category_ids_in(dataset)
        if None in category_ids:
            missing = [c for c, i in zip(self.classes, category_ids, strict=True) if i is None]
            console.print(
                f"{Path(dataset.source).name} has {len(self.classes) - len(missing)} of the run's "
                f"{len(self.classes)} classes, matched by name; detections of the others are "
                f"ignored: {', '.join(missing)}",
                soft_wrap=True,
            )
        with image_size(self.detector, min_size, max_size):
            return evaluate_detector(
                self.detector,
                dataset,
                batch_size or self.batch_size,
                workers=workers,
                engine=engine,
                teacher=self.teacher() if teacher else None,
                category_ids=category_ids,
                console=console,
            )

    def teacher(self) -> nn.Module:
        """The implicit teacher, which makes K_e of the detector's maps K and the labels.

        Raises:
            ValueError: the run has none, or the detector has its best weights.
            OSError: its file cannot be read.
        """
        if self.weights == "best":
            raise ValueError(
                "--teacher: the teacher of the best weights is not kept; use the last ones "
                "(--weights last)"
            )
        return teacher_of(self.folder, self.detector)

    def metadata(self) -> dict[str, Any]:
        """What a file of the weights says of them: docs/export.md."""
        return {
            "classes": self.classes,
            "category_ids": self.category_ids,
            "detector": dataclasses.asdict(self.config),
            "normalisation": dict(
                zip(("mean", "std"), normalisation(self.config.backbone), strict=True)
            ),
            "sssd": __version__,
        }

    def predict(
        self,
        images: ImageLike | Iterable[ImageLike],
        threshold: float | None = None,
        batch_size: int = 1,
    ) -> list[Detections]:
        """Detects objects in images.

        Args:
            images: one or more: paths of files, PIL images, uint8 arrays (H, W, 3) in RGB order or
                (H, W), and tensors (3, H, W), uint8 or floats in 0..1. They are read as in
                training: rotated upright by EXIF, grey and 16-bit images converted to RGB.
            threshold: minimum score of a detection; by default the score with the best F1 on the
                validation set.
            batch_size: images per batch: more is faster on a GPU. Images of a batch are padded to
                one size, which may slightly change the detections near their borders.

        Returns:
            The detections of each image, best first: boxes in its pixels, scores, labels and class
            names.

        Raises:
            TypeError, ValueError: something that is not an image, or an invalid number; the message
            names it. DataError: a file that cannot be read.

        Example:
            >>> for found in sssd.load("runs/demo").predict(["a.jpg", "b.jpg"]):  # doctest: +SKIP
            ...     print(found.file, found)  # a.jpg 3 car, 1 dog
        """
        return Predictor.of(self, threshold).predict(images, batch_size)

    def category_ids_in(self, dataset: DetectionDataset) -> list[Id | None]:
        """A dataset's own ids of the detector's classes, which are known by their names.

        None for a class that the dataset does not have. Classes of which it has no object may be
        any: they count for nothing.

        Raises:
            DataError: the dataset has objects of a class that the detector does not know, or one
                name stands for two classes.
        """
        if dataset.classes == self.classes:
            return list(dataset.category_ids)
        labels = set(dataset.boxes.labels.tolist())
        used = [name for label, name in enumerate(dataset.classes) if label in labels]
        ambiguous = any(len(set(names)) < len(names) for names in (self.classes, dataset.classes))
        if ambiguous or not used or not set(used) <= set(self.classes):
            raise DataError(
                f"{dataset.source} has objects of {some_of(used)}, but {self.folder} was trained "
                f"on {some_of(self.classes)}; evaluate it on data with classes of these names only"
            )
        id_of = dict(zip(dataset.classes, dataset.category_ids, strict=True))
        return [id_of.get(name) for name in self.classes]


def load(folder: Path | str, device: str = "cpu", *, weights: Weights = "last") -> Run:
    """Opens the folder of a finished run; nothing is downloaded.

    Args:
        folder: a run's folder, with config.json and model.safetensors.
        device: where to put the detector; "auto" uses a GPU if there is one.
        weights: "last", the final weights, or "best", those with the highest validation AP, to
            which `numbers` then belong; an unfinished run has "best" too.

    Raises:
        FileNotFoundError: the folder is not that of a run, or the run is not finished.
        ValueError: a file is damaged, the weights belong to other settings or classes, or the
            device does not exist.

    Example:
        >>> run = sssd.load("runs/demo")  # doctest: +SKIP
        >>> run.detector([image])[0]["boxes"]  # doctest: +SKIP
    """
    if weights not in FILES:
        raise ValueError(f"weights is {weights!r}; it must be one of {', '.join(FILES)}")
    folder = Path(folder).absolute()  # in any working folder later
    record = read_record(folder)
    metadata = _read_metadata(folder / FILES[weights])
    try:
        config = to_rebuild(settings_from(DetectorConfig, record["detector"]))
        engine = settings_from(EngineConfig, record["engine"])
        batch_size = engine.part_size(record["processes"])
        data = settings_from(DataConfig, record["data"])
        classes: list[str] = _list_of(metadata["classes"], str)
        category_ids: list[Id] = _list_of(metadata["category_ids"], int | str)
    except (KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise of_another_version(folder, error) from error
    best = read_best(folder)
    numbers = read_json(folder / NUMBERS) if (folder / NUMBERS).exists() else None
    if weights == "best" and best is not None:
        numbers = best.numbers
    detector = build_detector(config, len(classes))
    load_weights(plain_model(detector), folder / FILES[weights], "the run's weights")
    detector.to(choose_device(device)).to(memory_format=engine.memory_format).eval()
    about = classes, category_ids, config, data, batch_size, numbers
    return Run(folder, detector, *about, best=best, weights=weights)


def _list_of(text: str, kind: Any) -> list[Any]:
    """A list of one kind in the json of a weights file's metadata."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TypeError(f"the weights' metadata hold {text!r:.40}: {error}") from None
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise TypeError(f"the weights' metadata hold {text!r:.40}, no list of names or numbers")
    return values


def plain_model(detector: Detector) -> nn.Module:
    """What other programs load: torchvision's own model where the detector wraps one."""
    return getattr(detector, "model", detector)


def to_rebuild(config: DetectorConfig) -> DetectorConfig:
    """Settings that build the trained network without the files that training started from."""
    weights = config.weights
    if weights is not None:
        # Where training began with pretrained weights, EfficientNet-Lite0 has its batch norms
        # folded, which its own bundled weights do too. A ResNet's frozen batch norm computes in
        # evaluation what a batch norm does, so nothing needs to be downloaded.
        weights = "imagenet" if config.backbone == "efficientnet_lite0" else None
    return dataclasses.replace(config, weights=weights, start_from=None)


def _read_metadata(path: Path) -> dict[str, str]:
    if not path.is_file():
        state = "is not finished" if path.name == WEIGHTS else "has not been evaluated yet"
        raise FileNotFoundError(
            f"{path.parent}: the run {state}, so it has no {path.name}; resume it with `python -m "
            f"sssd.train {to_resume(path.parent)}`"
        )
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{path}: not a complete safetensors file: {error}") from error


def evaluation_data(run: Run, **changes: Any) -> DataConfig:
    """The run's data settings, with those that are given in place of its own.

    Raises:
        TypeError: a name that is none of evaluation, or a value of another type.
        ValueError: data beside the demo's, or a split that may hold what was trained on.
    """
    for name in changes:
        if name not in OF_EVALUATION:
            known = ", ".join(OF_EVALUATION)
            raise TypeError(
                f"data: {name!r} is not a data setting of evaluation; the settings are {known}"
            )
    given = {name: value for name, value in changes.items() if value is not None}
    if "val" in given and given.get("format") == "demo":
        raise ValueError(
            f"--data.val is {given['val']}, but --data.format demo makes its own data; leave one "
            "of them out"
        )
    if "val" in given:  # the run's own folder and format belong to its own file
        given = {"val_images": None, "val_split": "val", "format": None, **given}
    elif "val_split" in given and run.data.val_share is not None:  # another part of the same data
        part = given["val_split"]
        if split_named(part) in ("train", "val"):  # of data without splits that is all of them
            raise ValueError(
                f"--data.val-split is {part!r}, but the run trained on images of "
                f"{run.data.train} and held out a share of them (--data.val-share "
                f"{run.data.val_share}); leave the flag out to evaluate on that share, or name "
                "other data with --data.val"
            )
        given = {"val": run.data.train, "val_images": run.data.train_images, **given}
    if "val" in given:
        given["val_share"] = None
    return with_changes(run.data, given, "data.")
