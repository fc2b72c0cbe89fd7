"""A data set of a few small images, written as COCO json, that engine and commands train on."""

import json
from pathlib import Path

import numpy as np
from PIL import Image


def write_scenes(folder: Path, split: str, count: int = 6, classes: int = 2) -> Path:
    """Writes bright squares on noise; gives the path of the json."""
    random = np.random.default_rng(len(split))
    (folder / split).mkdir(parents=True)
    (folder / "annotations").mkdir(exist_ok=True)
    images, annotations = [], []
    for number in range(1, count + 1):
        pixels = random.integers(0, 60, (64, 64, 3), dtype=np.uint8)
        size = int(random.integers(16, 32))
        x, y = (int(v) for v in random.integers(0, 64 - size, 2))
        label = number % classes
        pixels[y : y + size, x : x + size, label] = 255
        Image.fromarray(pixels).save(folder / split / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 64})
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": label + 1,
                "bbox": [x, y, size, size],
                "area": size * size,
                "iscrowd": 0,
            }
        )
    categories = [{"id": c + 1, "name": f"kind{c}"} for c in range(classes)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    path = folder / "annotations" / f"instances_{split}.json"
    path.write_text(json.dumps(document))
    return path
