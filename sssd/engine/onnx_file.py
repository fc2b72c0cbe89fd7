"""A detector as an ONNX file, and its check."""

import copy
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms.v2.functional import resize

from sssd.detectors import Detector
from sssd.engine.files import RunError
from sssd.engine.prediction import read_threshold
from sssd.engine.runs import Run, plain_model

BOX_TOLERANCE, SCORE_TOLERANCE = 0.05, 1e-3  # pixels; onnxruntime sums in another order


class _OneImage(nn.Module):
    """A detector of one image, with tensors for input and outputs."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.model: Any = plain_model(detector)
        self.shift = 1 if hasattr(self.model, "roi_heads") else 0  # Faster R-CNN: 0 is background

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (found,) = self.model([image])
        return found["boxes"], found["scores"], found["labels"] - self.shift


class _TracedTransform(GeneralizedRCNNTransform):
    """Torchvision's transform, which resizes to the same pixel when it is traced.

    Its own trace computes the scale in single precision, where PyTorch takes double: of all sizes
    up to 1400 x 1400, 8 % become an image that is a pixel smaller or larger (800 / 1333 pixels).
    """

    def __init__(self, original: GeneralizedRCNNTransform) -> None:
        super().__init__(
            original.min_size, original.max_size, original.image_mean, original.image_std
        )

    def resize(self, image: Tensor, target: None = None) -> tuple[Tensor, None]:
        # As vectors: the exporter makes single precision of double scalars.
        size = torch._shape_as_tensor(image)[-2:].double()
        sides = torch.cat([size.amin(0, keepdim=True), size.amax(0, keepdim=True)])
        limits = torch.tensor([self.min_size[-1], self.max_size], dtype=torch.float64)
        scale = (limits / sides).amin(0, keepdim=True)
        height, width = (size * scale).floor().long().clamp(min=1)
        resized = F.interpolate(image[None], size=(height, width), mode="bilinear")
        return resized[0], None


def to_onnx(
    detector: Detector, image: Tensor, metadata: dict[str, Any], any_size: bool = True
) -> bytes:
    """A detector as an ONNX file.

    Args:
        detector: in evaluation mode, on the CPU.
        image: (3, H, W) float32 in [0, 1].
        metadata: what the file says of it, each value as json.
        any_size: images may have any height and width, not those of `image` alone.
    """
    import onnx

    module = _OneImage(copy.deepcopy(detector)).to(memory_format=torch.contiguous_format).eval()
    module.model.transform = _TracedTransform(module.model.transform)
    axes = {name: {0: "detections"} for name in ("boxes", "scores", "labels")}
    if any_size:
        axes["image"] = {1: "height", 2: "width"}
    with TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        file = Path(folder) / "detector.onnx"
        warnings.simplefilter("ignore")  # the exporter's many notes about torchvision's code
        torch.onnx.export(
            module,
            (image,),
            file,
            dynamo=False,  # torch.export does not take torchvision's detectors
            opset_version=17,
            input_names=["image"],
            output_names=["boxes", "scores", "labels"],
            dynamic_axes=axes,
        )
        model = onnx.load(file)
    onnx.helper.set_model_props(model, {k: json.dumps(v) for k, v in metadata.items()})
    return model.SerializeToString()


def described(run: Run, size: tuple[int, int] | None) -> dict[str, Any]:
    """What the metadata of a file say beside `Run.metadata`: how it is used.

    Args:
        run: what is exported.
        size: height and width of all images; None for any.
    """
    return {
        "input": {"image": "float32 (3, height, width), RGB, 0..1; resized and normalised inside"},
        "outputs": {
            "boxes": "float32 (n, 4), x1 y1 x2 y2 in pixels of the image",
            "scores": "float32 (n), 0..1, from 0.05 on",
            "labels": "int64 (n), index of the class in classes",
        },
        "size": size,
        "threshold": read_threshold(run.folder),
        "max_detections": run.detector.max_detections,
        "pixel_range": run.data.pixel_range,
    }


def in_order_of(found: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    """Some detections in the order of others: of nearly equal scores either may come first.

    Args:
        found: boxes (n, 4), scores (n,), labels (n,).
        others: the same of as many detections; as they are if the two do not match one to one.
    """

    def places(boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        parts = [boxes / BOX_TOLERANCE, scores[:, None] / SCORE_TOLERANCE, 1e6 * labels[:, None]]
        return torch.cat([part.double() for part in parts], dim=1)  # (n, 6)

    if len(found[0]) == 0:
        return list(others)
    nearest = torch.cdist(places(*found), places(*others), p=torch.inf).argmin(1)
    one_to_one = len(nearest.unique()) == len(others[0])
    return [x[nearest] for x in others] if one_to_one else list(others)


def check_onnx(written: bytes, detector: Detector, image: Tensor) -> int:
    """Compares what onnxruntime and PyTorch find in an image; gives the number of detections.

    Raises:
        RunError: they differ.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    found = [torch.from_numpy(x) for x in session.run(None, {"image": image.numpy()})]
    with torch.no_grad():
        expected = _OneImage(detector).eval()(image)
    if len(found[0]) != len(expected[0]):
        raise RunError(
            f"{size_of(image)}: onnxruntime finds {len(found[0])} objects and PyTorch "
            f"{len(expected[0])}; nothing was written. If some scores lie right at the threshold, "
            "try another --image"
        )
    expected = in_order_of(found, expected)
    for name, mine, theirs, tolerance in zip(
        ("boxes", "scores", "labels"),
        found,
        expected,
        (BOX_TOLERANCE, SCORE_TOLERANCE, 0),
        strict=True,
    ):
        difference = (mine.double() - theirs.double()).abs()
        if len(difference) and float(difference.max()) > tolerance:
            raise RunError(
                f"{size_of(image)}: onnxruntime's {name} differ from PyTorch's by up to "
                f"{difference.max():g}; nothing was written"
            )
    return len(found[0])


def other_sizes(image: Tensor, least: int) -> list[Tensor]:
    """The image a third lower, and a quarter narrower, no side below `least` pixels."""
    height, width = image.shape[1:]
    sizes = (2 * height // 3, width), (height, 3 * width // 4)
    return [resize(image, [max(side, least) for side in size]) for size in sizes]


def size_of(image: Tensor) -> str:
    """Height and width of an image, in words."""
    return f"{image.shape[1]} x {image.shape[2]} pixels (height x width)"
