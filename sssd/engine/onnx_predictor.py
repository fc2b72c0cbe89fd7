"""An exported ONNX file as something to predict with: onnxruntime, and no detector of ours."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sssd.engine.prediction import Predictor, checked_threshold


def open_onnx(path: Path, threshold: float | None = None) -> Predictor:
    """Opens a file that `python -m sssd.export` wrote.

    Args:
        path: the file.
        threshold: score from which on a detection counts; by default the one in the file.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: onnxruntime is not installed.
        ValueError: it is no ONNX file, or none of sssd.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            f"an .onnx file needs the onnx extra ({error}): pip install 'sssd[onnx]'"
        ) from error
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class for each kind of damage
        raise ValueError(f"{path}: not a usable ONNX file: {error}") from error
    try:
        about = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
        classes, ids, size = about["classes"], about["category_ids"], about["size"]
        least = about["threshold"] if threshold is None else threshold
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{path}: its metadata lacks {error}, which `python -m sssd.export` writes; export the "
            "run again"
        ) from error

    def detect(images: list[Tensor]) -> list[dict[str, Tensor]]:
        return [_detect(session, image, size) for image in images]

    most, pixel_range = about.get("max_detections"), about.get("pixel_range")
    return Predictor(detect, classes, ids, checked_threshold(least), most, pixel_range)


def _detect(session: Any, image: Tensor, size: tuple[int, int] | None) -> dict[str, Tensor]:
    """The detections of an image, which is resized for a file of one size."""
    height, width = image.shape[1:]
    if size is not None:
        image = F.interpolate(image[None], size=tuple(size), mode="bilinear", antialias=True)[0]
    outputs = session.run(["boxes", "scores", "labels"], {"image": image.numpy()})
    boxes, scores, labels = map(torch.from_numpy, outputs)
    if size is not None:
        boxes = boxes * torch.tensor([width / size[1], height / size[0]]).repeat(2)
    return {"boxes": boxes, "scores": scores, "labels": labels}
