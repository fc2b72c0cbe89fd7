"""Images thinner than max_size : 1, which torchvision's own transform does not take."""

import pytest
import torch

from sssd.detectors import DetectorConfig, build_detector
from sssd.engine.onnx_file import _TracedTransform

SHAPES = [(1, 700), (700, 1), (2, 901), (1, 448), (3, 1000), (1, 2)]


@pytest.fixture(scope="module")
def detector() -> torch.nn.Module:
    config = DetectorConfig("fcos", "resnet18", None, width=64, min_size=(64,), max_size=448)
    return build_detector(config, 2)


@pytest.mark.parametrize("shape", SHAPES)
def test_they_are_learnt_from_and_searched(
    shape: tuple[int, int], detector: torch.nn.Module
) -> None:
    height, width = shape
    image, box = torch.rand(3, height, width), torch.tensor([[0.0, 0.0, width, height]])
    batch = detector.train().prepare([image], [{"boxes": box, "labels": torch.tensor([1])}])
    (resized,) = batch.sizes
    assert min(resized) >= 1
    assert max(resized) <= 448
    expected = torch.tensor([[0.0, 0.0, resized[1], resized[0]]])
    torch.testing.assert_close(batch.targets[0]["boxes"], expected)
    with torch.no_grad():
        (found,) = detector.eval()([image])
    assert (found["boxes"][:, 2:] <= torch.tensor([width, height]) + 1e-3).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_onnx_resizes_them_alike(shape: tuple[int, int], detector: torch.nn.Module) -> None:
    transform = detector.eval().model.transform
    image = torch.rand(3, *shape)
    ours, theirs = transform.resize(image)[0], _TracedTransform(transform).resize(image)[0]
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)
