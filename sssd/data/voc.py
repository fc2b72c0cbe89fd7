"""Reader of Pascal VOC xml files."""

from __future__ import annotations

import math
import os
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from sssd.data.boxes import BoxRow, BoxTable, refuse_other_units
from sssd.data.dataset import DetectionDataset
from sssd.data.faults import DataError, Fault
from sssd.data.files import (
    ENDINGS,
    IMAGE_FLAGS,
    Files,
    choose_split,
    folders_of_images,
    shared_folder,
    split_named,
)
from sssd.data.images import read_size
from sssd.data.text import UNKNOWN, read_text, read_xml, require_known

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_voc(
    root: str | Path,
    split: str | None = "train",
    images: str | Path | None = None,
    classes: Sequence[str] | None = None,
) -> DetectionDataset:
    """Read a detection dataset of Pascal VOC's xml files, wherever in a folder they lie.

    An xml file belongs to the image of its own name, in any folder below the root; what it states
    as <filename> counts only where there is none. Corners are taken as they stand, as the tools
    that write these files today mean them (VOC itself counts pixels from 1, half a pixel away).
    Objects marked "difficult" are ordinary ones. Images are numbered from 1, classes from 1 in the
    order of their names.

    Args:
        root: folder of xml files and images: VOC's own Annotations/ and JPEGImages/, or any other
            as labelImg, Roboflow, CVAT, VoTT or Label Studio write them.
        split: part of the data, as listed in ImageSets/Main/SPLIT.txt or in a folder of this name;
            what is not split is taken whole. None: every xml file.
        images: folder of the images; None: the root.
        classes: names in index order; None: all names below the root, sorted, so that every split
            has the same.

    Returns:
        The dataset; images are opened on demand.

    Raises:
        DataError: a folder or part that does not exist, or no object at all.

    Example:
        >>> train = read_voc("VOCdevkit/VOC2012", "train")  # doctest: +SKIP
    """
    root = Path(root)
    folder = root if images is None else Path(images)
    for needed in (root, folder):
        if not needed.is_dir():
            raise DataError(f"{needed}: this folder does not exist; name the images' by {IMAGE_FLAGS}")
    files = Files(root)
    faults: list[Fault] = []
    trees = _trees(files.ending(".xml"), faults)
    names = {str(item.findtext("name", "")).strip() for t in trees.values() for item in t.iter("object")}
    if classes is None:
        classes = sorted(name for name in names if name and UNKNOWN not in name)
    if not classes:
        for path, tree in trees.items():
            require_known(path, "".join(tree.itertext()))
        raise DataError(f"{root}: no xml file below it names an object")
    chosen, pool = _part(files, split, trees, faults)
    if images is not None:
        pool = Files(folder).images()
    pictures = _Pictures(pool, list(trees))
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
            size = _size(tree) or read_size(picture)
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
            f"{root}: no image of its xml files can be used{reason}; name the images' folder by "
            f"{IMAGE_FLAGS}{folders_of_images(root)}"
        )
    base = shared_folder(found)
    if split is None or not _lists(files):
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
        message = f"{name!r} is none of {', '.join(label_of)}"
        if UNKNOWN in name:
            message = f"{name!r} is not UTF-8, and the file does not say its encoding; save it as UTF-8"
        faults.append(Fault("unknown category", str(path), record, message))
    elif not boxes:
        tags = ", ".join(child.tag for child in item)
        message = f"it has no bndbox, only {tags}"
        faults.append(Fault("incomplete annotation", str(path), record, message))
    else:
        for box in boxes:
            x, y, right, bottom = (_number(box, corner) for corner in CORNERS)
            rows.append(BoxRow(image, (x, y, right - x, bottom - y), label_of[name], number))


def _trees(paths: list[Path], faults: list[Fault]) -> dict[Path, ElementTree.Element]:
    """Parse all annotations; other xml files are no matter."""
    trees = {}
    for path in paths:
        try:
            tree = read_xml(path)
        except DataError as error:
            message = str(error).removeprefix(f"{path}: ")
            faults.append(Fault("unusable annotation file", str(path), "", message))
            continue
        if tree.tag == "annotation":
            trees[path] = tree
    return trees


def _lists(files: Files) -> dict[str, list[Path]]:
    """Give the lists of ImageSets/ by the split's name.

    Some tools write lists of each class alone (cat_train.txt), which name all images of a split.

    Raises:
        DataError: there are two data sets below the root.
    """
    texts = [path for path in files.ending(".txt") if "ImageSets" in path.parts]
    main = [path for path in texts if path.parent.name == "Main"] or texts
    if len(folders := sorted({str(path.parent) for path in main})) > 1:
        raise DataError(f"{files.root}: it holds several sets ({', '.join(folders)}); name one")
    whole = {path.stem: [path] for path in main}
    by_class = defaultdict(list)
    for path in main:
        split = path.stem.rpartition("_")[2]
        if "_" in path.stem and split not in whole and split_named(split):
            by_class[split].append(path)
    return whole | by_class


def _part(
    files: Files,
    split: str | None,
    trees: dict[Path, ElementTree.Element],
    faults: list[Fault],
) -> tuple[list[Path], list[Path]]:
    """Give the xml files of a part, and the images that may belong to them."""
    paths = list(trees)
    pool = files.images()
    pool = [path for path in pool if "JPEGImages" in path.parts] or pool  # no segmentation masks
    if split is None:
        return paths, pool
    if lists := _lists(files):
        part = choose_split(lists, split, files.root)
        if part is not None:
            return _listed(lists[part], files, paths, faults), pool
    of_split = files.split(paths, split)
    if of_split is None:
        return paths, pool
    kept = {str(path) for path in files.split(files.ending(".xml"), split) or []}
    faults[:] = [fault for fault in faults if fault.file in kept]
    shared = not any(map(split_named, (name for path in pool for name in files.within(path))))
    return of_split, pool if shared else files.split(pool, split) or []


def _listed(
    lists: list[Path], files: Files, paths: list[Path], faults: list[Fault]
) -> list[Path]:
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        by_stem[path.stem].append(path)
    usual = paths[0].parent if paths else files.root / "Annotations"
    damaged = {fault.file: fault for fault in faults}
    faults.clear()
    chosen: dict[Path, None] = {}
    for file in lists:
        text = read_text(file)
        require_known(file, text)
        for line in filter(None, map(str.strip, text.splitlines())):
            # "a name", "a name 1" or "images/a name.jpg annotations/a name.xml"
            names = [line, line.rpartition(" ")[0].strip(), line.split()[0]]
            stems = [_stem(name) for name in names if name]
            stem = next((stem for stem in stems if Path(stem).name in by_stem), stems[-1])
            found = by_stem[Path(stem).name]
            exact = [path for path in found if path.with_suffix("").as_posix().endswith(f"/{stem}")]
            found = exact or found
            if len(found) == 1:
                chosen[found[0]] = None
                continue
            path = usual / f"{stem}.xml"
            message = f"{len(found)} files have this name" if found else f"{file} lists it"
            message += "" if found else ", but it does not exist"
            fault = Fault("unusable annotation file", str(path), "", message)
            faults.append(damaged.get(str(path), fault))
    return list(chosen)


def _stem(name: str) -> str:
    name = name.strip("\"'").replace("\\", "/")
    stem, dot, ending = name.rpartition(".")
    return stem if dot and f".{ending.lower()}" in {*ENDINGS, ".xml"} else name


class _Pictures:
    """The images that xml files belong to."""

    def __init__(self, pool: list[Path], xmls: list[Path]) -> None:
        self.pool = pool
        self.by_stem: dict[str, list[Path]] = defaultdict(list)
        self.by_name: dict[str, list[Path]] = defaultdict(list)
        self.xmls: dict[str, list[Path]] = defaultdict(list)
        self.used: set[Path] = set()
        for path in pool:
            self.by_stem[path.stem].append(path)
            self.by_name[path.name].append(path)
        for path in xmls:
            self.xmls[path.stem].append(path)

    def of(self, xml: Path, tree: ElementTree.Element) -> Path:
        """Give the one image of an xml file.

        Raises:
            DataError: there is none, or there are several.
        """
        stated = tree.findtext("filename", "").strip().replace("\\", "/").rpartition("/")[2]
        # "a.jpg.xml" belongs to a.jpg
        found = _nearest(xml, self.by_stem.get(xml.stem) or self.by_name.get(xml.stem, []))
        if len(found) > 1:
            found = [path for path in found if path.name == stated] or found
        if not found and stated:
            found = _nearest(xml, self.by_name.get(stated) or self.by_stem.get(stated, []))
        if len(found) > 1:
            names = ", ".join(map(str, found))
            raise DataError(f"it may belong to any of {names}; leave one, or rename the xml file")
        if not found:
            raise DataError(f"no image is called {xml.stem}" + f", nor {stated}" * bool(stated))
        # The image may have an xml file of its own, of which this is a stale copy.
        owners = _nearest(found[0], self.xmls.get(found[0].stem, []))
        if owners and xml not in owners:
            raise DataError(
                f"no image is called {xml.stem}, and {stated or found[0].name} has its own {owners[0]}"
            )
        self.used.add(found[0])
        return found[0]

    def without_xml(self) -> list[Fault]:
        """Give the images that no xml file is about."""
        message = "no xml file has its name: it is not used"
        return [
            Fault("image without xml", str(path), "", message, "note")
            for path in self.pool
            if path not in self.used and path.stem not in self.xmls
        ]


def _nearest(path: Path, others: list[Path]) -> list[Path]:
    """Give those of the files whose folders differ least from a file's."""
    if len(others) < 2:
        return others
    apart = [len(set(path.parent.parts) ^ set(other.parent.parts)) for other in others]
    return [other for other, n in zip(others, apart, strict=True) if n == min(apart)]


def _size(tree: ElementTree.Element) -> tuple[int, int] | None:
    width, height = (_number(tree, f"size/{side}") for side in ("width", "height"))
    usual = 0 < width < 2**31 and 0 < height < 2**31
    return (int(width), int(height)) if usual else None


def _number(element: ElementTree.Element, path: str) -> float:
    try:
        return float(element.findtext(path, ""))
    except ValueError:
        return math.nan
