"""Reader of YOLO text files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sssd.data.boxes import BoxRow, BoxTable
from sssd.data.dataset import DetectionDataset
from sssd.data.faults import DataError, Fault
from sssd.data.images import read_size


def read_yolo(
    root: str | Path,
    split: str = "train",
    classes: Sequence[str] | None = None,
) -> DetectionDataset:
    """Read a detection dataset in the layout of YOLO: images/SPLIT and labels/SPLIT.

    A label file has a line for each object: class x y width height, centre and size as fractions of
    the image; or class and the corners of a polygon, of which the bounding box is taken. An image
    without a label file holds no objects. Sizes are read from the images. Images are numbered from
    1, in the order of their names.

    Args:
        root: folder of images/ and labels/, or a data.yaml that says where they are and names the
            classes (needs `pip install pyyaml`).
        split: "train", "val" or "test".
        classes: names in index order; None: those of data.yaml, or of root/classes.txt.

    Returns:
        The dataset; images are opened on demand.

    Raises:
        DataError: a folder that does not exist or holds no images, or classes without names.
        ImportError: a data.yaml without PyYAML.

    Example:
        >>> train = read_yolo("coco128", classes=["person", "bicycle"])  # doctest: +SKIP
    """
    root = Path(root)
    if root.suffix in (".yaml", ".yml"):
        images, stated = _from_yaml(root, split)
        classes = classes or stated
    else:
        images = root / "images" / split
        if classes is None and (root / "classes.txt").is_file():
            classes = [line.strip() for line in (root / "classes.txt").read_text().splitlines()]
            classes = [name for name in classes if name]
    if not classes:
        raise DataError(f"{root}: no class names: give classes, classes.txt or a data.yaml")
    if not images.is_dir():
        raise DataError(f"{images}: the folder of the images of {root} does not exist")
    rows: list[BoxRow] = []
    faults: list[Fault] = []
    names: list[str] = []
    label_files: list[str] = []
    sizes: list[tuple[int, int]] = []
    labels = _labels_folder(images)
    known = set(Image.registered_extensions())
    for path in sorted(path for path in images.rglob("*") if path.suffix.lower() in known):
        try:
            size = read_size(path)
        except DataError as error:
            faults.append(Fault("unreadable image", str(path), "", str(error)))
            continue
        label_file = (labels / path.relative_to(images)).with_suffix(".txt")
        found, wrong = _read_labels(label_file, len(names), size, len(classes))
        rows += found
        faults += wrong
        names.append(str(path.relative_to(images)))
        label_files.append(str(label_file))
        sizes.append(size)
    if not names:
        raise DataError(f"{images}: no images in this folder")
    return DetectionDataset(
        source=root,
        image_root=images,
        file_names=names,
        image_ids=range(1, len(names) + 1),
        sizes=sizes,
        boxes=BoxTable.from_rows(rows),
        classes=classes,
        category_ids=range(len(classes)),
        record_name="line",
        label_files=label_files,
        faults=faults,
    )


def _labels_folder(images: Path) -> Path:
    """Give the folder that YOLO pairs with the images': the last "images" becomes "labels"."""
    parts = list(images.parts)
    last = len(parts) - 1 - parts[::-1].index("images") if "images" in parts else None
    if last is None:
        return images
    parts[last] = "labels"
    return Path(*parts)


def _read_labels(
    path: Path, image: int, size: tuple[int, int], num_classes: int
) -> tuple[list[BoxRow], list[Fault]]:
    rows: list[BoxRow] = []
    faults: list[Fault] = []
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return rows, faults
    except (OSError, UnicodeDecodeError) as error:
        return rows, [Fault("unusable annotation file", str(path), "", str(error))]
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields:
            continue
        try:
            values = np.array(fields, np.float64)
            box = _box(values[1:]) * np.tile(size, 2)
        except ValueError:
            message = f"a line is 'class x y width height' or 'class' and a polygon, not {line!r}"
            faults.append(Fault("incomplete annotation", str(path), f"line {number}", message))
            continue
        if values[0] not in range(num_classes):
            message = f"class {fields[0]} of {num_classes} classes, which are numbered from 0"
            faults.append(Fault("unknown category", str(path), f"line {number}", message))
            continue
        rows.append(BoxRow(image, box.tolist(), int(values[0]), number))
    return rows, faults


def _box(values: np.ndarray) -> np.ndarray:
    """Turn centre and size, or a polygon's corners, into x, y, width, height."""
    if len(values) == 4:
        return np.concatenate([values[:2] - values[2:] / 2, values[2:]])
    corners = values.reshape(-1, 2)
    if len(corners) < 3:
        raise ValueError("a polygon has three corners or more")
    low, high = corners.min(axis=0), corners.max(axis=0)
    return np.concatenate([low, high - low])


def _from_yaml(path: Path, split: str) -> tuple[Path, list[str]]:
    try:
        import yaml  # type: ignore[import-untyped]
    except ImportError:
        raise ImportError(f"to read {path}: pip install pyyaml, or give its folder") from None
    try:
        document: Any = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise DataError(f"{path}: the file does not exist") from None
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not a yaml file: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get(split), str):
        raise DataError(f"{path}: it names no folder for the split {split!r}")
    names = document.get("names") or []
    if isinstance(names, dict):
        names = [names[key] for key in sorted(names)]
    return path.parent / document.get("path", "") / document[split], [str(name) for name in names]
