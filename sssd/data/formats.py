"""Any data set by its path."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from sssd.data.coco import read_coco
from sssd.data.dataset import DetectionDataset
from sssd.data.faults import DataError
from sssd.data.voc import read_voc
from sssd.data.yolo import read_yolo

Format = Literal["coco", "voc", "yolo"]


def read_dataset(
    path: str | Path,
    images: str | Path | None = None,
    split: str = "train",
    format: Format | None = None,
) -> DetectionDataset:
    """Read a data set of any format.

    Args:
        path: COCO: the json file; VOC and YOLO: the folder (see `read_voc`, `read_yolo`).
        images: folder of the images, where it is not at the format's usual place (COCO, VOC).
        split: which part of a VOC or YOLO folder; a COCO file is one split.
        format: None: known by the path.

    Returns:
        The dataset.

    Raises:
        DataError: the path does not exist or its format is not known, or as the readers raise.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: this file or folder does not exist")
    kind = format or _format_of(path)
    if kind == "coco":
        return read_coco(path, images)
    if kind == "voc":
        return read_voc(path, split, images)
    if images is not None:
        raise DataError(f"{images}: a YOLO data set has its images at {path}/images/{split}")
    return read_yolo(path, split)


def _format_of(path: Path) -> Format:
    if path.suffix == ".json":
        return "coco"
    if (path / "Annotations").is_dir():
        return "voc"
    if path.suffix in (".yaml", ".yml") or (path / "labels").is_dir():
        return "yolo"
    raise DataError(
        f"{path}: neither a COCO json file, nor a VOC folder (with Annotations/), nor a YOLO one "
        "(data.yaml, or a folder with labels/)"
    )
