"""Reader of Pascal VOC xml files."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from sssd.data.boxes import BoxRow, BoxTable
from sssd.data.dataset import DetectionDataset
from sssd.data.faults import DataError, Fault
from sssd.data.images import read_size

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_voc(
    root: str | Path,
    split: str | None = "train",
    images: str | Path | None = None,
    classes: Sequence[str] | None = None,
) -> DetectionDataset:
    """Read a detection dataset from a folder in the layout of Pascal VOC.

    Corners are taken as they stand, as the tools that write these files today mean them (VOC
    itself counts pixels from 1, half a pixel away). Objects marked "difficult" are ordinary ones.
    Images are numbered from 1, classes from 1 in the order of their names.

    Args:
        root: folder with Annotations/*.xml and ImageSets/Main/SPLIT.txt.
        split: name of the list of images; None: every xml file.
        images: folder of the images; None: root/JPEGImages.
        classes: names in index order; None: all names in Annotations, sorted, so that every split
            has the same.

    Returns:
        The dataset; images are opened on demand.

    Raises:
        DataError: a folder or list that does not exist, or no object at all.

    Example:
        >>> train = read_voc("VOCdevkit/VOC2012", "train")  # doctest: +SKIP
    """
    root = Path(root)
    folder = root / "JPEGImages" if images is None else Path(images)
    elsewhere = "; say where the images are by --images (in training --data.train-images)"
    for needed, way_out in ((root / "Annotations", ""), (folder, elsewhere)):
        if not needed.is_dir():
            raise DataError(f"{needed}: this folder of a VOC dataset does not exist{way_out}")
    stems = _stems(root, split)
    if classes is None:
        classes = _all_names(root)
    if not classes:
        raise DataError(f"{root / 'Annotations'}: no xml file names an object")
    label_of = {name: label for label, name in enumerate(classes)}
    rows: list[BoxRow] = []
    faults: list[Fault] = []
    file_names: list[str] = []
    label_files: list[str] = []
    sizes: list[tuple[int, int]] = []
    for stem in stems:
        path = root / "Annotations" / f"{stem}.xml"
        try:
            tree = ElementTree.parse(path).getroot()
            name = _image_name(tree, stem, folder)
            size = _size(tree) or read_size(folder / name)
        except (OSError, ElementTree.ParseError, DataError) as error:
            faults.append(Fault("unusable annotation file", str(path), "", str(error)))
            continue
        for number, item in enumerate(tree.iter("object"), start=1):
            box = item.find("bndbox")
            values = [math.nan if box is None else _number(box, corner) for corner in CORNERS]
            x, y, right, bottom = values
            label = label_of.get(item.findtext("name", "").strip())
            if label is None:
                message = f"{item.findtext('name')!r} is none of {', '.join(classes)}"
                faults.append(Fault("unknown category", str(path), f"object {number}", message))
            else:
                rows.append(BoxRow(len(file_names), (x, y, right - x, bottom - y), label, number))
        file_names.append(name)
        label_files.append(str(path))
        sizes.append(size)
    return DetectionDataset(
        source=root,
        image_root=folder,
        file_names=file_names,
        image_ids=range(1, len(file_names) + 1),
        sizes=sizes,
        classes=classes,
        category_ids=range(1, len(classes) + 1),
        label_files=label_files,
        boxes=BoxTable.from_rows(rows),
        record_name="object",
        faults=faults,
    )


def _stems(root: Path, split: str | None) -> list[str]:
    if split is None:
        return sorted(path.stem for path in (root / "Annotations").glob("*.xml"))
    path = root / "ImageSets" / "Main" / f"{split}.txt"
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        raise DataError(f"{path}: the list of the split's images does not exist") from None
    return [line.split()[0] for line in lines if line.strip()]


def _all_names(root: Path) -> list[str]:
    names = set()
    for path in (root / "Annotations").glob("*.xml"):
        try:
            tree = ElementTree.parse(path).getroot()
        except (OSError, ElementTree.ParseError):
            continue  # reported where its own split is read
        names |= {item.findtext("name", "").strip() for item in tree.iter("object")}
    return sorted(names - {""})


def _image_name(tree: ElementTree.Element, stem: str, folder: Path) -> str:
    """Give the file name that the xml states, or the xml's own where that is out of date."""
    stated = tree.findtext("filename", "").strip()
    return stated if stated and (folder / stated).is_file() else f"{stem}.jpg"


def _size(tree: ElementTree.Element) -> tuple[int, int] | None:
    width, height = (_number(tree, f"size/{side}") for side in ("width", "height"))
    return (int(width), int(height)) if width > 0 and height > 0 else None


def _number(element: ElementTree.Element, path: str) -> float:
    try:
        return float(element.findtext(path, ""))
    except ValueError:
        return math.nan
