"""Reader of COCO json files."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any, Protocol

import pycocotools.mask

from sssd.data.boxes import BoxRow, BoxTable, refuse_other_units
from sssd.data.coco_files import find_images
from sssd.data.dataset import DetectionDataset
from sssd.data.faults import DataError, Fault, Id, Severity
from sssd.data.images import read_size
from sssd.data.text import read_json, require_known

Record = dict[str, Any]


def read_coco(annotations: str | Path, images: str | Path | None = None) -> DetectionDataset:
    """Read a detection dataset from a COCO json file.

    Ids may be any integers or strings; classes are numbered 0..C-1 in the order of their ids, so
    that the files of two splits agree. An annotation without a bbox has its mask's box; what is
    marked "ignore" is a crowd region. Records that cannot be used are left out, with a warning, and
    stand in `faults` of the dataset. The source of the format is
    https://cocodataset.org/#format-data.

    Args:
        annotations: json file with "images", "annotations" and "categories".
        images: folder of the images; None: COCO's own place, `DIR/X` for
            `DIR/annotations/instances_X.json`, or the usual ones near it: the folder of the json
            file, images/, images/X/ and data/ beside it.

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
    if not entries:
        given = len(document["images"])
        what = f"none of its {given} images has an id and a file_name"
        raise DataError(f"{path}: {what if given else 'it has no images'}")
    entries = {key: entry for key, entry in entries.items() if _fits(key, entry, report)}
    folder, names = find_images(path, images, entries)
    sizes = _sizes(entries, folder, names, report)
    _note_ids(document["annotations"], report)
    row_of = {image: row for row, image in enumerate(sizes)}
    dataset = DetectionDataset(
        source=path,
        image_root=folder,
        file_names=[names[image] for image in sizes],
        image_ids=list(sizes),
        sizes=list(sizes.values()),
        classes=[str(categories[category].get("name", category)) for category in order],
        category_ids=order,
        faults=faults,
        part="",  # the file is one part
        boxes=_boxes(document["annotations"], row_of, sizes, set(entries), label_of, report),
    )
    refuse_other_units(dataset)
    return dataset


def _load(path: Path) -> Record:
    document = read_json(path)
    for key in ("images", "annotations", "categories"):
        if not isinstance(document, dict) or not isinstance(document.get(key), list):
            raise DataError(
                f"{path}: not a COCO detection file: it has no list '{key}'; see "
                "https://cocodataset.org/#format-data"
            )
    for record in document["images"]:
        if isinstance(record, dict) and isinstance(url := record.get("coco_url"), str):
            record.setdefault("file_name", "/".join(url.split("/")[-2:]))  # all that LVIS v1 has
    for key, name in (("categories", "name"), ("images", "file_name")):
        texts = [record.get(name) for record in document[key] if isinstance(record, dict)]
        require_known(path, "\n".join(text for text in texts if isinstance(text, str)))
    return document


class ReportFault(Protocol):
    """Takes a fault of the file."""

    def __call__(
        self, kind: str, record: str, message: str, severity: Severity = "error"
    ) -> None: ...


def _unique(
    records: list[Record], name: str, report: ReportFault, needs: str | None = None
) -> dict[Id, Record]:
    """Index records by id; a record without id, or with one that was seen, is reported."""
    found: dict[Id, Record] = {}
    for number, record in enumerate(records):
        key = _id(record.get("id")) if isinstance(record, dict) else None
        if key is None or (needs and not isinstance(record.get(needs), str)):
            wanted = "id" if key is None else needs
            report(f"incomplete {name}", f"{name} number {number}", f"it has no valid '{wanted}'")
        elif key in found:
            report(
                f"duplicate {name} id", f"{name} {key!r}", "the first record with this id is kept"
            )
        else:
            found[key] = record
    return found


def _id(value: object) -> Id | None:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, (int, str)) and not isinstance(value, bool) else None


def _fits(key: Id, entry: Record, report: ReportFault) -> bool:
    """Whether an image's id and file name can be held; else it is reported."""
    if isinstance(key, int) and not -(2**63) <= key < 2**63:
        message = "its id does not fit into 64 bits; use a smaller number or a string"
    elif re.search("[\0\ud800-\udfff]", entry["file_name"]):
        message = f"{entry['file_name']!r} is not a valid file name"
    elif len(entry["file_name"]) > 4096:  # all names are held in as many bytes as the longest
        message = f"its file name has {len(entry['file_name'])} characters"
    else:
        return True
    report("incomplete image", f"image {key!r}", message)
    return False


def _sizes(
    entries: dict[Id, Record], folder: Path, names: dict[Id, str], report: ReportFault
) -> dict[Id, tuple[int, int]]:
    """Give width and height of every image; the file may leave them out, the image cannot."""
    sizes: dict[Id, tuple[int, int]] = {}
    for key, entry in entries.items():
        width, height = _side(entry.get("width")), _side(entry.get("height"))
        if width is not None and height is not None:
            sizes[key] = (width, height)
            continue
        try:
            sizes[key] = read_size(folder / names[key])
        except DataError as error:
            report("unknown image size", f"image {key!r}", f"no width and height, and {error}")
    return sizes


def _side(value: object) -> int | None:
    number = _number(value)
    return (
        int(number) if number is not None and number.is_integer() and 0 < number < 2**31 else None
    )


def _boxes(
    annotations: list[Record],
    row_of: dict[Id, int],
    sizes: dict[Id, tuple[int, int]],
    known_images: set[Id],
    label_of: dict[Id, int],
    report: ReportFault,
) -> BoxTable:
    rows = []
    for number, record in enumerate(annotations):
        if not isinstance(record, dict):
            report("incomplete annotation", f"annotation number {number}", "it is not an object")
            continue
        key = _id(record.get("id"))
        name = f"annotation number {number}" if key is None else f"annotation {key!r}"
        image, category = _id(record.get("image_id")), _id(record.get("category_id"))
        crowd = [_flag(record.get(field, 0)) for field in ("iscrowd", "ignore")]
        box = _numbers(record.get("bbox"))
        if box is None and not record.get("bbox") and image in sizes:
            box = _box_of_mask(record.get("segmentation"), sizes[image])
        if image not in known_images:
            report("unknown image", name, f"no image has the id {record.get('image_id')!r}")
        elif category not in label_of:
            value = record.get("category_id")
            report("unknown category", name, f"no category has the id {value!r}")
        elif None in crowd:
            values = [record[field] for field in ("iscrowd", "ignore") if field in record]
            message = f"'iscrowd' and 'ignore' must be 0 or 1, not {', '.join(map(repr, values))}"
            report("incomplete annotation", name, message)
        elif box is None and image in row_of:
            value = record.get("bbox")
            message = f"'bbox' must be four numbers, not {value!r}"
            if record.get("segmentation"):
                message += ", and its mask cannot be read"
            report("incomplete annotation", name, message)
        elif image in row_of:
            assert box is not None
            area = _number(record.get("area"))
            rows.append(
                BoxRow(
                    image=row_of[image],
                    xywh=box,
                    label=label_of[category],
                    record=number if key is None else key,
                    crowd=any(crowd),
                    area=area if area is not None and 0 < area < math.inf else None,
                )
            )
    return BoxTable.from_rows(rows)


def _flag(value: object) -> bool | None:
    """Give what 0, 1, "0", "1" and json's true and false mean; None for anything else."""
    flags = {"0": False, "1": True, "false": False, "true": True, "none": False, "": False}
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return flags.get(str(value).strip().lower())


def _box_of_mask(mask: object, size: tuple[int, int]) -> list[float] | None:
    """Give x, y, width, height around a mask: polygons or run lengths; None where there is none."""
    if isinstance(mask, list):
        polygons = [_floats(polygon) for polygon in mask]
        corners = [value for polygon in polygons if polygon for value in polygon]
        if not corners or any(not p or len(p) < 6 or len(p) % 2 for p in polygons):
            return None
        x, y = corners[::2], corners[1::2]
        return [min(x), min(y), max(x) - min(x), max(y) - min(y)]
    if not isinstance(mask, dict) or mask.get("size") != [size[1], size[0]]:
        return None
    counts = mask.get("counts")
    if isinstance(counts, list):
        whole = all(type(count) is int and 0 <= count < 2**32 for count in counts)
        if not whole or sum(counts) != size[0] * size[1]:
            return None
        mask = pycocotools.mask.frPyObjects(mask, size[1], size[0])
    elif not isinstance(counts, str) or not re.fullmatch(r"[0-o]*[0-O]", counts):
        return None  # pycocotools reads past the end of a damaged string
    return pycocotools.mask.toBbox(mask).tolist()


def _note_ids(annotations: list[Record], report: ReportFault) -> None:
    """Note ids that mislead other tools; nothing here depends on them."""
    counts = Counter(_id(record.get("id")) for record in annotations if isinstance(record, dict))
    if 0 in counts:
        message = "pycocotools would treat a match with it as no match; renumbered for evaluation"
        report("annotation id 0", "annotation 0", message, "note")
    for key, count in counts.items():
        if count > 1 and key is not None:
            message = f"{count} records have it; renumbered for evaluation"
            report("duplicate annotation id", f"annotation {key!r}", message, "note")


def _numbers(values: object) -> list[float] | None:
    """Give four numbers, NaN among them, or None for anything else."""
    return _floats(values) if isinstance(values, list) and len(values) == 4 else None


def _floats(values: object) -> list[float] | None:
    numbers = [_number(value) for value in values] if isinstance(values, list) else [None]
    return None if None in numbers else [number for number in numbers if number is not None]


def _number(value: object) -> float | None:
    if type(value) not in (int, float):
        return None
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:  # an integer beyond all floats
        return math.inf
