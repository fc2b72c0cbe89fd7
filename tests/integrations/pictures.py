"""Eight real pictures as a COCO dataset, for the trainers of other frameworks."""

import json
from pathlib import Path

CLASSES = ("RBC", "WBC", "Platelets")


def eight_pictures(shared_data: Path, folder: Path) -> tuple[Path, Path]:
    """Writes an annotation file of 8 pictures of bccd; returns it and the folder of pictures."""
    whole = json.loads((shared_data / "bccd/annotations/instances_train.json").read_text())
    images = whole["images"][:8]
    kept = {image["id"] for image in images}
    annotations = [a for a in whole["annotations"] if a["image_id"] in kept]
    file = folder / "eight.json"
    file.write_text(json.dumps({**whole, "images": images, "annotations": annotations}))
    return file, shared_data / "bccd/train"
