"""Reader of COCO json files."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, Protocol

from sssd.data.boxes import BoxRow, BoxTable
from sssd.data.dataset import DetectionDataset
from sssd.data.faults import DataError, Fault, Id, Severity
from sssd.data.images import read_size

Record = dict[str, Any]


def read_coco(annotations: str | Path, images: str | Path | None = None) -> DetectionDataset:
    """Read a detection dataset from a COCO json file.

    Ids may be any integers or strings; classes are numbered 0..C-1 in the order of their ids, so
    that the files of two splits agree. Records that cannot be used are left out, with a warning,
    and stand in `faults` of the dataset. The source of the format is
    https://cocodataset.org/#format-data.

    Args:
        annotations: json file with "images", "annotations" and "categories".
        images: folder of the images; None: COCO's own place, `DIR/X` for
            `DIR/annotations/instances_X.json`, or else the folder of the json file.

    Returns:
        The dataset; images are opened on demand.

    Raises:
        DataError: a missing file, a file that is not json or not COCO, or no folder of images.

    Example:
        >>> train = read_coco("coco/annotations/instances_train2017.json")  # doctest: +SKIP
        >>> train.classes[:2]  # doctest: +SKIP
        ['person', 'bicycle']
    """
    path = Path(annotations)
    document = _load(path)
    faults: list[Fault] = []

    def report(kind: str, record: str, message: str, severity: Severity = "error") -> None:
        faults.append(Fault(kind, str(path), record, message, severity))

    categories = _unique(document["categories"], "category", report)
    if not categories:
        raise DataError(f"{path}: 'categories' is empty, so there is nothing to detect")
    order = sorted(categories, key=lambda value: (isinstance(value, str), value))
    label_of = {category: label for label, category in enumerate(order)}
    entries = _unique(document["images"], "image", report, needs="file_name")
    folder = _image_folder(path, images, entries)
    sizes = _sizes(entries, folder, report)
    _note_ids(document["annotations"], report)
    row_of = {image: row for row, image in enumerate(sizes)}
    return DetectionDataset(
        source=path,
        image_root=folder,
        file_names=[str(entries[image]["file_name"]) for image in sizes],
        image_ids=list(sizes),
        sizes=list(sizes.values()),
        classes=[str(categories[category].get("name", category)) for category in order],
        category_ids=order,
        faults=faults,
        boxes=_boxes(document["annotations"], row_of, set(entries), label_of, report),
    )


def _load(path: Path) -> Record:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: the annotation file does not exist") from None
    except OSError as error:
        raise DataError(f"{path}: the annotation file cannot be read: {error}") from error
    except ValueError as error:
        raise DataError(f"{path}: not a json file: {error}") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(document, dict) or not isinstance(document.get(key), list):
            raise DataError(
                f"{path}: not a COCO detection file: it has no list '{key}'; see "
                "https://cocodataset.org/#format-data"
            )
    return document


class Report(Protocol):
    """Takes a fault of the file."""

    def __call__(
        self, kind: str, record: str, message: str, severity: Severity = "error"
    ) -> None: ...


def _unique(
    records: list[Record], name: str, report: Report, needs: str | None = None
) -> dict[Id, Record]:
    """Index records by id; a record without id, or with one that was seen, is reported."""
    found: dict[Id, Record] = {}
    for number, record in enumerate(records):
        key = _id(record.get("id")) if isinstance(record, dict) else None
        if key is None or (needs and not isinstance(record.get(needs), str)):
            wanted = "id" if key is None else needs
            report(f"incomplete {name}", f"{name} number {number}", f"it has no valid '{wanted}'")
        elif key in found:
            report(f"duplicate {name} id", f"{name} {key!r}", "the first record of this id is kept")
        else:
            found[key] = record
    return found


def _id(value: object) -> Id | None:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, (int, str)) and not isinstance(value, bool) else None


def _image_folder(path: Path, images: str | Path | None, entries: dict[Id, Record]) -> Path:
    if images is not None:
        folder = Path(images)
        if not folder.is_dir():
            raise DataError(f"{folder}: the folder of the images of {path} does not exist")
        return folder
    convention = path.parent.parent / path.stem.removeprefix("instances_")
    if path.parent.name == "annotations" and convention.is_dir():
        return convention
    if any((path.parent / entry["file_name"]).is_file() for entry in entries.values()):
        return path.parent
    raise DataError(
        f"{path}: its images are neither in {convention} nor in {path.parent}; "
        "name their folder (images=...)"
    )


def _sizes(entries: dict[Id, Record], folder: Path, report: Report) -> dict[Id, tuple[int, int]]:
    """Give width and height of every image; the file may leave them out, the image cannot."""
    sizes: dict[Id, tuple[int, int]] = {}
    for key, entry in entries.items():
        width, height = entry.get("width"), entry.get("height")
        if isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0:
            sizes[key] = (width, height)
            continue
        try:
            sizes[key] = read_size(folder / entry["file_name"])
        except DataError as error:
            report("unknown image size", f"image {key!r}", f"no width and height, and {error}")
    return sizes


def _boxes(
    annotations: list[Record],
    row_of: dict[Id, int],
    known_images: set[Id],
    label_of: dict[Id, int],
    report: Report,
) -> BoxTable:
    rows = []
    for number, record in enumerate(annotations):
        if not isinstance(record, dict):
            report("incomplete annotation", f"annotation number {number}", "it is not an object")
            continue
        key = _id(record.get("id"))
        name = f"annotation number {number}" if key is None else f"annotation {key!r}"
        image, category = _id(record.get("image_id")), _id(record.get("category_id"))
        box = _numbers(record.get("bbox"))
        if image not in known_images:
            report("unknown image", name, f"no image has the id {record.get('image_id')!r}")
        elif category not in label_of:
            value = record.get("category_id")
            report("unknown category", name, f"no category has the id {value!r}")
        elif box is None:
            value = record.get("bbox")
            report("incomplete annotation", name, f"'bbox' must be four numbers, not {value!r}")
        elif image in row_of:
            area = record.get("area")
            rows.append(
                BoxRow(
                    image=row_of[image],
                    xywh=box,
                    label=label_of[category],
                    record=number if key is None else key,
                    crowd=bool(record.get("iscrowd", 0)),
                    area=area if _is_number(area) else None,
                )
            )
    return BoxTable.from_rows(rows)


def _note_ids(annotations: list[Record], report: Report) -> None:
    """Note ids that mislead other tools; nothing here depends on them."""
    counts = Counter(_id(record.get("id")) for record in annotations if isinstance(record, dict))
    if 0 in counts:
        message = "pycocotools takes a match with it for none; renumbered for evaluation"
        report("annotation id 0", "annotation 0", message, "note")
    for key, count in counts.items():
        if count > 1 and key is not None:
            message = f"{count} records have it; renumbered for evaluation"
            report("duplicate annotation id", f"annotation {key!r}", message, "note")


def _numbers(values: object) -> list[float] | None:
    """Give four numbers, NaN among them, or None for anything else."""
    if not isinstance(values, list) or len(values) != 4:
        return None
    if not all(type(value) in (int, float) for value in values):
        return None
    return values


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
