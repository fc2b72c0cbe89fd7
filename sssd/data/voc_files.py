"""Which xml files belong to a part of a VOC data set, and which image to each."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path

from sssd.data.faults import DataError, Fault
from sssd.data.files import ENDINGS, Files, choose_split, split_named
from sssd.data.text import lines_of, read_text, read_xml, require_known


def read_trees(paths: list[Path], faults: list[Fault]) -> dict[Path, ElementTree.Element]:
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


def find_lists(files: Files) -> dict[str, list[Path]]:
    """Give the lists of ImageSets/ by the split's name.

    Some tools write lists of each class alone (cat_train.txt), which name all images of a split.

    Raises:
        DataError: there are two data sets below the root.
    """
    texts = [path for path in files.ending(".txt") if "ImageSets" in path.parts]
    main = [path for path in texts if path.parent.name == "Main"] or texts
    if len(folders := sorted({str(path.parent) for path in main})) > 1:
        raise DataError(
            f"{files.root}: it has several data sets ({', '.join(folders)}); give one of them"
        )
    whole = {path.stem: [path] for path in main}
    by_class = defaultdict(list)
    for path in main:
        split = path.stem.rpartition("_")[2]
        if "_" in path.stem and split not in whole and split_named(split):
            by_class[split].append(path)
    return whole | by_class


def find_part(
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
    if lists := find_lists(files):
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


def _listed(lists: list[Path], files: Files, paths: list[Path], faults: list[Fault]) -> list[Path]:
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
        for line in filter(None, map(str.strip, lines_of(text))):
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


class Pictures:
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
            raise DataError(
                f"it may belong to any of {names}; keep one of them, or rename the xml file"
            )
        if not found:
            raise DataError(f"no image is called {xml.stem}" + f", nor {stated}" * bool(stated))
        # The image may have an xml file of its own, of which this is a stale copy.
        owners = _nearest(found[0], self.xmls.get(found[0].stem, []))
        if owners and xml not in owners:
            raise DataError(
                f"no image is called {xml.stem}, and {found[0].name} has its own {owners[0]}"
            )
        self.used.add(found[0])
        return found[0]

    def without_xml(self) -> list[Fault]:
        """Give the images that no xml file is about."""
        message = "no xml file has its name, so it is not used"
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
