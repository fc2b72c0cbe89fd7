"""Reader of Pascal VOC xml files."""

from __future__ import annotations

import math
import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from sssd.data.boxes import BoxRow, BoxTable, refuse_other_units
from sssd.data.dataset import DetectionDataset
from sssd.data.faults import DataError, Fault
from sssd.data.files import IMAGE_FLAGS, Files, folders_of_images, shared_folder
from sssd.data.image_files import KeptImages
from sssd.data.text import UNKNOWN, require_known
from sssd.data.voc_files import Pictures, find_lists, find_part, read_trees

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_voc(
    root: str | Path,
    split: str | None = "train",
    images: str | Path | None = None,
) -> DetectionDataset:
    """Read a detection dataset of Pascal VOC's xml files, wherever in a folder they lie.

    An xml file belongs to the image of its own name, in any folder below the root; what it states
    as <filename> counts only where there is none. Corners are taken as they stand, as the tools
    that write these files today mean them (VOC itself counts pixels from 1, half a pixel away).
    Objects marked "difficult" are ordinary ones. Images are numbered from 1; so are the classes,
    all names below the root in order, so that every split has the same.

    Args:
        root: folder of xml files and images: VOC's own Annotations/ and JPEGImages/, or any other
            as labelImg, Roboflow, CVAT, VoTT or Label Studio write them.
        split: part of the data, as listed in ImageSets/Main/SPLIT.txt or in a folder of this name;
            what is not split is taken whole. None: every xml file.
        images: folder of the images; None: the root.

    Returns:
        The dataset; images are opened on demand.

    Raises:
        DataError: a folder or part that does not exist, or no object at all.

    Example:
        >>> train = read_voc("VOCdevkit/VOC2012", "train")  # doctest: +SKIP
    """
    root = Path(root)
    folder = root if images is None else Path(images)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the one that holds the xml files")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the images' folder with {IMAGE_FLAGS}")
    files = Files(root)
    faults: list[Fault] = []
    trees = read_trees(files.ending(".xml"), faults)
    names = {
        str(item.findtext("name", "")).strip() for t in trees.values() for item in t.iter("object")
    }
    classes = sorted(name for name in names if name and UNKNOWN not in name)
    if not classes:
        for path, tree in trees.items():
            require_known(path, "".join(tree.itertext()))
        raise DataError(f"{root}: none of its xml files has an object")
    chosen, pool = find_part(files, split, trees, faults)
    if images is not None:
        pool = Files(folder).images()
    pictures, kept = Pictures(pool, list(trees)), KeptImages(root, split or "")
    label_of = {name: label for label, name in enumerate(classes)}
    rows: list[BoxRow] = []
    found: list[Path] = []
    label_files: list[str] = []
    sizes: list[tuple[int, int]] = []
    for path in chosen:
        tree = trees[path]
        kind = "missing image"
        try:
            picture = pictures.of(path, tree)
            kind = "unreadable image"
            size = _size(tree) or kept.size(picture)
        except DataError as error:
            faults.append(Fault(kind, str(path), "", str(error)))
            continue
        for number, item in enumerate(tree.iter("object"), start=1):
            _read_object(item, number, path, len(found), label_of, rows, faults)
        found.append(picture)
        label_files.append(str(path))
        sizes.append(size)
    if not found:
        reason = f"; {faults[0].message}" if faults else ""
        raise DataError(
            f"{root}: no image of its xml files can be used{reason}; give the images' folder with "
            f"{IMAGE_FLAGS}{folders_of_images(root)}"
        )
    base = shared_folder(found)
    if split is None or not find_lists(files):
        faults += pictures.without_xml()
    dataset = DetectionDataset(
        source=root,
        image_root=base,
        file_names=[os.path.relpath(path, base) for path in found],
        image_ids=range(1, len(found) + 1),
        sizes=sizes,
        classes=classes,
        category_ids=range(1, len(classes) + 1),
        label_files=label_files,
        boxes=BoxTable.from_rows(rows),
        record_name="object",
        faults=faults,
        part=split or "",
    )
    refuse_other_units(dataset)
    return dataset


def _read_object(
    item: ElementTree.Element,
    number: int,
    path: Path,
    image: int,
    label_of: dict[str, int],
    rows: list[BoxRow],
    faults: list[Fault],
) -> None:
    record = f"object {number}"
    name = item.findtext("name", "").strip()
    boxes = item.findall("bndbox")
    if name not in label_of:
        message = f"{name!r} is not one of {', '.join(label_of)}"
        if UNKNOWN in name:
            message = (
                f"{name!r} is not UTF-8, and the file does not declare its encoding; save it as "
                "UTF-8"
            )
        faults.append(Fault("unknown category", str(path), record, message))
    elif not boxes:
        tags = ", ".join(child.tag for child in item)
        message = f"it has no bndbox, only {tags}"
        faults.append(Fault("incomplete annotation", str(path), record, message))
    else:
        for box in boxes:
            x, y, right, bottom = (_number(box, corner) for corner in CORNERS)
            rows.append(BoxRow(image, (x, y, right - x, bottom - y), label_of[name], number))


def _size(tree: ElementTree.Element) -> tuple[int, int] | None:
    width, height = (_number(tree, f"size/{side}") for side in ("width", "height"))
    usual = 0 < width < 2**31 and 0 < height < 2**31
    return (int(width), int(height)) if usual else None


def _number(element: ElementTree.Element, path: str) -> float:
    try:
        return float(element.findtext(path, ""))
    except ValueError:
        return math.nan
