"""Reader of YOLO text files."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from sssd.data.boxes import BoxRow, BoxTable
from sssd.data.dataset import DetectionDataset
from sssd.data.faults import DataError, Fault
from sssd.data.files import ENDINGS, folders_of_images, shared_folder, split_named
from sssd.data.image_files import KeptImages
from sssd.data.text import lines_of, read_text
from sssd.data.yolo_files import find_source

EDGE = 0.01  # of the image: tools round, and their boxes stick out a little
TWINS = {"images": ("labels",), "Images": ("Labels", "labels"), "JPEGImages": ("labels",)}


def read_yolo(root: str | Path, split: str = "train") -> DetectionDataset:
    """Read a detection dataset in any layout of YOLO and darknet.

    A label file has a line for each object: class x y width height, centre and size as fractions of
    the image; or class and the corners of a polygon, of which the bounding box is taken. Columns
    after the box are not read: keypoints (known by `kpt_shape` of a data.yaml), track ids, scores.
    A label file lies beside its image, or in labels/ where the image lies in images/; an image
    without one holds no objects, and of two images of a folder with the same one the second is left
    out. Sizes are read from the images. Images are numbered from 1, in the order of their names or
    of their list.

    Args:
        root: a data.yaml (Ultralytics, Roboflow, CVAT), an obj.data (darknet, CVAT), a list of
            images (.txt), or the folder of any of these, or of images and label files.
        split: which part, such as "train", "val" or "test"; what is not split is taken whole.

    Returns:
        The dataset; images are opened on demand.

    Raises:
        DataError: no images, no such part, classes without names, or lines that mean two things.

    Example:
        >>> train = read_yolo("coco8/data.yaml")  # doctest: +SKIP
    """
    root = Path(root)
    source = find_source(root, split)
    faults = list(source.faults)
    images: list[Path] = []
    sizes: list[tuple[int, int]] = []
    label_files, kept = _LabelFiles(), KeptImages(root, split)
    labels: list[Path] = []
    lines: list[_Line] = []
    labelled: dict[tuple[Path, Path], Path] = {}  # the image of a label file, in each folder
    for path in source.images:
        label = label_files.of(path)
        try:
            size = kept.size(path)
        except DataError as error:
            faults.append(Fault("unreadable image", str(path), "", str(error)))
            continue
        first = labelled.setdefault((label, path.parent), path) if label.is_file() else path
        if first != path:
            message = (
                f"the label file {label.name} is that of {first.name}, too; remove one of the "
                "images (sssd.predict may have drawn one)"
            )
            faults.append(Fault("shared label file", str(path), "", message))
            continue
        sizes.append(size)
        lines += _read_lines(label, len(images), len(source.classes), faults)
        images.append(path)
        labels.append(label)
    if not images:
        reason = f"; {faults[0].message}" if faults else ""
        raise DataError(f"{root}: no image of it can be used{reason}{folders_of_images(root)}")
    faults += label_files.without_image()
    folder = shared_folder(images)
    return DetectionDataset(
        source=root,
        image_root=folder,
        file_names=[os.path.relpath(path, folder) for path in images],
        image_ids=range(1, len(images) + 1),
        sizes=sizes,
        boxes=BoxTable.from_rows(_boxes(lines, labels, sizes, source.keypoints, faults)),
        classes=source.classes,
        category_ids=range(len(source.classes)),
        record_name="line",
        label_files=[str(path) for path in labels],
        faults=faults,
        part=split,
    )


@dataclass
class _LabelFiles:
    """Where the label files of images lie, and which of them have no image."""

    stems: dict[Path, set[str]] = field(default_factory=lambda: defaultdict(set))  # by label folder
    folders: dict[Path, list[Path]] = field(default_factory=dict)  # of labels, by image folder

    def of(self, image: Path) -> Path:
        """Give the label file of an image; where there is none, the usual place of one."""
        if image.parent not in self.folders:
            self.folders[image.parent] = self._candidates(image.parent)
        names = [f"{image.stem}.txt", f"{image.name}.txt"]
        candidates = [folder / name for folder in self.folders[image.parent] for name in names]
        return next((path for path in candidates if path.is_file()), candidates[0])

    def _candidates(self, folder: Path) -> list[Path]:
        own = [folder]
        for number, name in enumerate(folder.parts):
            if name in TWINS:  # the last one counts
                above, below = folder.parts[:number], folder.parts[number + 1 :]
                own = [Path(*above, twin, *below) for twin in TWINS[name]] + [folder]
        shared = [folder / "labels", folder.parent / "labels" / folder.name]
        shared += [] if split_named(folder.name) else [folder.parent / "labels"]
        stems = {p.stem for p in folder.iterdir() if p.suffix.lower() in ENDINGS}
        for place in own:
            self.stems[place] |= stems
        return [place for place in (*own, *shared) if place.is_dir()] or own

    def without_image(self) -> list[Fault]:
        """Give the label files whose image is nowhere: their objects are lost."""
        faults = []
        for folder, stems in self.stems.items():
            for path in sorted(folder.glob("*.txt")):
                if path.stem not in stems and Path(path.stem).stem not in stems and is_label(path):
                    message = "no image has the name of this label file"
                    faults.append(Fault("missing image", str(path), "", message))
        return faults


def is_label(path: Path) -> bool:
    """Whether a text file begins with a line of numbers, as label files do."""
    try:
        fields = read_text(path).split("\n", 1)[0].split()
        return len([float(value) for value in fields]) >= 5
    except (DataError, ValueError):
        return False


class _Line(NamedTuple):
    """One line of a label file."""

    image: int
    number: int
    label: int
    values: list[float]  # all after the class


def _read_lines(path: Path, image: int, num_classes: int, faults: list[Fault]) -> list[_Line]:
    lines: list[_Line] = []
    if not path.exists():
        return lines
    try:
        text = read_text(path)
    except DataError as error:
        faults.append(Fault("unusable annotation file", str(path), "", str(error)))
        return lines
    for number, line in enumerate(lines_of(text), start=1):
        if not line.strip():
            continue
        try:
            label, *values = [float(value) for value in line.split()]
        except ValueError:
            label, values = -1.0, []
        if len(values) < 4:
            message = f"a line is 'class x y width height' or 'class' and a polygon, not {line!r}"
            faults.append(Fault("incomplete annotation", str(path), f"line {number}", message))
        elif label not in range(num_classes):
            message = f"class {label:g} of {num_classes} classes, which are numbered from 0"
            faults.append(Fault("unknown category", str(path), f"line {number}", message))
        else:
            lines.append(_Line(image, number, int(label), values))
    return lines


def _boxes(
    lines: list[_Line],
    labels: list[Path],
    sizes: list[tuple[int, int]],
    keypoints: int | None,
    faults: list[Fault],
) -> list[BoxRow]:
    """Turn lines into boxes in pixels."""
    polygons = keypoints is None and _has_polygons(lines, labels)
    extra = "" if keypoints is None else f", {keypoints} values of keypoints,"
    rows, longer = [], 0
    for line in lines:
        box = _box(line.values, polygons, keypoints)
        if box is None:
            message = f"neither a box in fractions of the image{extra} nor a polygon: " + " ".join(
                f"{value:g}" for value in line.values[:8]
            )
            path = str(labels[line.image])
            faults.append(Fault("incomplete annotation", path, f"line {line.number}", message))
            continue
        longer += len(line.values) > 4 and not polygons
        width, height = sizes[line.image]
        pixels = [box[0] * width, box[1] * height, box[2] * width, box[3] * height]
        rows.append(BoxRow(line.image, pixels, line.label, line.number))
    if longer:
        message = (
            f"{longer} lines have columns after the box (keypoints, track, score), which are not "
            "read"
        )
        faults.append(Fault("more columns", str(labels[0].parent), "", message, "note"))
    return rows


def _box(values: list[float], polygons: bool, keypoints: int | None) -> list[float] | None:
    """Give x, y, width, height in fractions of the image; None for what is no box."""
    more = len(values) - 4
    if polygons and more >= 2 and more % 2 == 0:
        return None if any(abs(value - 0.5) > 1 for value in values) else _around(values)
    x, y, width, height = values[:4]
    if more == 0 and max(width, height) > 1.5:  # pixels: they would cover all of the image
        return None
    if more and not (_is_box(values) and keypoints in (None, more, more - 1)):
        return None
    return [x - width / 2, y - height / 2, width, height]


def _has_polygons(lines: list[_Line], labels: list[Path]) -> bool:
    """Whether the longer lines are polygons, not boxes with columns after them.

    An odd number of columns may be either. Keypoints and tracks come with the same number in every
    line, and the first four values are a box within the image in each.

    Raises:
        DataError: the lines can be read in both ways.
    """
    long = [line for line in lines if len(line.values) >= 6 and len(line.values) % 2 == 0]
    if not long or len({len(line.values) for line in long}) > 1:
        return bool(long)
    if not all(_is_box(line.values) for line in long):
        return True
    if any(value.is_integer() and abs(value) > 1 for line in long for value in line.values[4:]):
        return False  # visibility, or the number of a track: no corner lies there
    raise DataError(
        f"{labels[long[0].image]}: line {long[0].number}: the {len(long[0].values)} values after "
        "the class, as in all longer lines, can be a box and more columns, or a polygon; for "
        "keypoints set kpt_shape: [POINTS, VALUES] in the data.yaml, for polygons repeat the first "
        "point of one of them at its end"
    )


def _is_box(values: Sequence[float]) -> bool:
    """Whether the first four values are a box within the image."""
    x, y, width, height = values[:4]
    sides = ((x, width), (y, height))
    return all(
        size > 0 and middle - size / 2 >= -EDGE and middle + size / 2 <= 1 + EDGE
        for middle, size in sides
    )


def _around(corners: Sequence[float]) -> list[float]:
    """Give x, y, width, height of the box around a polygon."""
    x, y = corners[::2], corners[1::2]
    nan = float("nan")
    if any(value != value for value in corners):
        return [nan, nan, nan, nan]
    return [min(x), min(y), max(x) - min(x), max(y) - min(y)]
