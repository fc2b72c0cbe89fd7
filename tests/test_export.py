"""The command: files that other programs read, checked, and what it says to bad input."""

import json
import re
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import safe_open
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms.v2.functional import resize

from sssd.data import read_image
from sssd.detectors import Detector, build_detector
from sssd.engine.files import RunError
from sssd.engine.onnx_file import _TracedTransform, check_onnx, in_order_of, to_onnx
from sssd.engine.runs import load
from sssd.export import main
from tests.runs import make_run
from tests.small import small_config


@pytest.fixture(scope="module")
def run(finished_run: Path) -> Path:
    return finished_run


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit status and the error's text of a command that must fail."""
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert isinstance(exit_info.value.code, int)
    return exit_info.value.code, " ".join(capsys.readouterr().err.split())


def test_safetensors_hold_the_plain_torchvision_model(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "detector.safetensors"
    assert main([str(run), "--out", str(out)]) == 0
    with safe_open(out, "pt") as file:
        metadata = file.metadata()
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert json.loads(metadata["classes"]) == ["kind0", "kind1"]
    assert json.loads(metadata["category_ids"]) == [1, 2]
    assert json.loads(metadata["detector"])["backbone"] == "resnet18"
    plain = build_detector(small_config(), 2).model
    plain.load_state_dict(weights)
    image = torch.rand(3, 64, 64)
    (found,) = plain.eval()([image])
    (expected,) = load(run).detector([image])
    assert len(found["boxes"]) > 0
    torch.testing.assert_close(found["boxes"], expected["boxes"])  # memory formats sum differently


def assert_answers_as_pytorch(
    session: onnxruntime.InferenceSession, detector: Detector, image: torch.Tensor
) -> None:
    found = [torch.from_numpy(x) for x in session.run(None, {"image": image.numpy()})]
    with torch.no_grad():
        (expected,) = detector([image])
    assert len(found[0]) == len(expected["boxes"]) > 0
    boxes, scores, labels = in_order_of(
        found, [expected[name] for name in ("boxes", "scores", "labels")]
    )
    torch.testing.assert_close(found[0], boxes, atol=0.05, rtol=0)
    torch.testing.assert_close(found[1], scores, atol=1e-3, rtol=0)
    assert found[2].tolist() == labels.tolist()


def test_detections_are_compared_whatever_the_order_of_equal_scores() -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9], [5, 5, 20, 20], [1, 1, 4, 4]])
    one = [boxes, torch.tensor([0.9, 0.5, 0.5]), torch.tensor([0, 1, 1])]
    other = [x[[0, 2, 1]] for x in one]
    assert all(torch.equal(x, y) for x, y in zip(in_order_of(one, other), one, strict=True))
    twice = [x[[0, 0, 1]] for x in one]
    assert all(torch.equal(x, y) for x, y in zip(in_order_of(one, twice), twice, strict=True))


# 64 x 64 pixels is the size it was made with, and the first: torchvision's RoIAlign keeps the
# scales that it guesses from its first image, wrong ones if that is very small and long. Of the
# last size, torchvision's own trace makes an image that is a pixel lower.
SIZES = [(64, 64), (100, 40), (33, 150), (97, 96)]


@pytest.mark.parametrize("name", ["fcos", "retinanet", "fasterrcnn"])
def test_onnx_answers_as_pytorch_on_images_of_any_size(
    name: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name != "fcos":
        run = make_run(tmp_path, "--detector.name", name)
    out = tmp_path / "detector.onnx"
    assert main([str(run), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    for size in ("64 x 64", "42 x 64", "64 x 48"):
        assert re.search(rf"{size} pixels .*: onnxruntime finds the same [1-9]\d* as PyTorch", said)
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == ["kind0", "kind1"]
    other = read_image(run.parent / "data/val/3.png").float() / 255
    detector = load(run).detector
    for size in SIZES:
        assert_answers_as_pytorch(session, detector, resize(other, list(size)))


def test_a_size_may_be_fixed(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "detector.onnx"
    assert main([str(run), "--out", str(out), "--size", "48", "60"]) == 0
    (image,) = onnx.load(out).graph.input
    assert [d.dim_value for d in image.type.tensor_type.shape.dim] == [3, 48, 60]
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    assert_answers_as_pytorch(session, load(run).detector, torch.rand(3, 48, 60))


class Resize(torch.nn.Module):
    """What is exported for the first step of a detector."""

    def __init__(self, transform: GeneralizedRCNNTransform) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.transform.resize(image)[0]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("limits", [(64, 96), (320, 533)])
def test_the_image_is_resized_as_by_pytorch_to_the_pixel(
    limits: tuple[int, int], tmp_path: Path
) -> None:
    original = GeneralizedRCNNTransform(*limits, [0.5] * 3, [0.2] * 3).eval()
    file = tmp_path / "resize.onnx"
    torch.onnx.export(
        Resize(_TracedTransform(original)).eval(),
        (torch.rand(1, 64, 64),),
        file,
        dynamo=False,
        opset_version=17,
        input_names=["image"],
        dynamic_axes={"image": {1: "height", 2: "width"}},
    )
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    for height, width in torch.randint(32, 800, (60, 2), generator=generator).tolist():
        image = torch.rand(1, height, width, generator=generator)
        (resized,) = session.run(None, {"image": image.numpy()})
        wanted = original.resize(image)[0]
        torch.testing.assert_close(torch.from_numpy(resized), wanted, atol=1e-3, rtol=0)


def test_a_file_that_answers_differently_is_found_out(run: Path) -> None:
    opened = load(run)
    image = read_image(run.parent / "data/val/1.png").float() / 255
    written = to_onnx(opened.detector, image, {})
    assert check_onnx(written, opened.detector, image) > 0
    with torch.no_grad():
        head = opened.detector.model.head.regression_head
        head.bbox_reg.bias += 0.1
    with pytest.raises(RunError, match="boxes differ from PyTorch's"):
        check_onnx(written, opened.detector, image)


def test_wrong_use_is_status_two(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "detector.onnx")
    cases = {
        "must end in .onnx or .safetensors": [str(run), "--out", str(tmp_path / "detector.pt")],
        "--size is (8, 64)": [str(run), "--out", out, "--size", "8", "64"],
        "absent.png": [str(run), "--out", out, "--image", str(tmp_path / "absent.png")],
        "no such folder": [str(tmp_path / "absent"), "--out", out],
    }
    for said, arguments in cases.items():
        status, message = fails(capsys, *arguments)
        assert status == 2, message
        assert said in message
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_is_named(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    status, message = fails(capsys, str(run), "--out", str(tmp_path / "detector.onnx"))
    assert status == 2
    assert "pip install 'sssd[onnx]'" in message
