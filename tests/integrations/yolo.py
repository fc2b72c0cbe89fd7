"""Ultralytics without a network, on a handful of pictures in YOLO's form."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ["YOLO_OFFLINE"] = "true"  # it looks for updates, fonts and weights; read when imported
os.environ["YOLO_AUTOINSTALL"] = "false"
os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp(prefix="ultralytics-"))

import pytest
import torch
from torch import Tensor, nn

from sssd.data.demo import demo_data

CLASSES, SIZE = 20, 64
# A detection model of a few layers, whose levels differ in width.
TINY = {
    "nc": CLASSES,
    "backbone": [[-1, 1, "Conv", [width, 3, 2]] for width in (8, 8, 16, 24, 32)],
    "head": [[[2, 3, 4], 1, "Detect", ["nc"]]],
}
END_TO_END = {"end2end": True, "reg_max": 1}  # as YOLO26 has it
ARGUMENTS = {
    "imgsz": SIZE,
    "batch": 4,
    "nbs": 4,
    "workers": 0,
    "device": "cpu",
    "plots": False,
    "verbose": False,
    "warmup_epochs": 0,
    "optimizer": "SGD",
    "pretrained": False,
}


def real(folder: Path, split: str, count: int) -> tuple[dict[str, Any], Path]:
    """COCO's record of some photos of PASCAL VOC, and their folder.

    Where there are none they are the demo's digits.
    """
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    voc = Path(os.environ.get("SSSD_DATA") or beside) / "voc07"
    annotations, images = voc / f"annotations/instances_{split}.json", voc / split
    if not voc.is_dir():
        demo = demo_data(folder, 128, 8, 8)
        annotations, images = getattr(demo, f"{split}_json"), getattr(demo, f"{split}_images")
    record = json.loads(annotations.read_text())
    chosen = record["images"][:count]
    ids = {image["id"] for image in chosen}
    rows = [row for row in record["annotations"] if row["image_id"] in ids]
    return {**record, "images": chosen, "annotations": rows}, images


def pictures(folder: Path, train: int = 8, val: int = 4) -> Path:
    """A data.yaml of real pictures, see `real`."""
    for split, count in (("train", train), ("val", val)):
        record, images = real(folder, split, count)
        names = {c["id"]: c["name"] for c in record["categories"]}
        number = {category: i for i, category in enumerate(names)}
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for image in record["images"]:
            width, height = image["width"], image["height"]
            rows = []
            for a in (a for a in record["annotations"] if a["image_id"] == image["id"]):
                x, y, w, h = a["bbox"]
                place = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
                rows.append(" ".join(map(str, (number[a["category_id"]], *place))))
            name = Path(image["file_name"]).name
            (folder / "images" / split / name).symlink_to(images / image["file_name"])
            text = folder / "labels" / split / Path(name).with_suffix(".txt")
            text.write_text("\n".join(rows))
    data = folder / "data.yaml"
    places = {"path": str(folder), "train": "images/train", "val": "images/val"}
    data.write_text(json.dumps({**places, "names": list(names.values())}))
    return data


def tiny_file(folder: Path, **changes: Any) -> str:
    """A model yaml."""
    path = folder / "tiny.yaml"
    path.write_text(json.dumps({**TINY, **changes}))
    return str(path)


def tiny_model(**changes: Any) -> nn.Module:
    """A DetectionModel in training mode, with the hyperparameters that its loss wants."""
    tasks = pytest.importorskip("ultralytics.nn.tasks")
    from ultralytics.cfg import get_cfg

    torch.manual_seed(0)
    model = tasks.DetectionModel({**TINY, **changes}, verbose=False)
    model.args = get_cfg()
    return model.train()


def batch(seed: int = 0) -> dict[str, Tensor]:
    """Two images, of which the second has two boxes and the first none."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "img": torch.rand(2, 3, SIZE, SIZE, generator=generator),
        "bboxes": torch.tensor([[0.3, 0.3, 0.4, 0.5], [0.6, 0.5, 0.6, 0.7]]),
        "cls": torch.tensor([[3.0], [CLASSES - 1.0]]),
        "batch_idx": torch.tensor([1.0, 1.0]),
    }
