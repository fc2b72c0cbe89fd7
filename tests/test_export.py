"""The command: files that other programs read, checked, and what it says to bad input."""

import json
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import safe_open

from sssd.data import read_image
from sssd.detectors import build_detector
from sssd.engine.runs import open_run
from sssd.engine.state import RunError
from sssd.export import check_onnx, main, to_onnx
from tests.runs import make_run
from tests.small import small_config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


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
    (expected,) = open_run(run).detector([image])
    assert len(found["boxes"]) > 0
    torch.testing.assert_close(found["boxes"], expected["boxes"])  # memory formats sum differently


def test_onnx_answers_as_pytorch_on_images_it_was_not_made_with(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "detector.onnx"
    assert main([str(run), "--out", str(out)]) == 0
    assert "the same" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == ["kind0", "kind1"]
    other = read_image(run.parent / "data/val/3.png").float() / 255
    boxes, scores, labels = session.run(None, {"image": other.numpy()})
    with torch.no_grad():
        (expected,) = open_run(run).detector([other])
    assert len(boxes) > 0
    torch.testing.assert_close(torch.from_numpy(boxes), expected["boxes"], atol=0.05, rtol=0)
    torch.testing.assert_close(torch.from_numpy(scores), expected["scores"], atol=1e-3, rtol=0)
    assert labels.tolist() == expected["labels"].tolist()


@pytest.mark.parametrize("name", ["retinanet", "fasterrcnn"])
def test_the_other_detectors_are_exported(name: str, tmp_path: Path) -> None:
    run = make_run(tmp_path, "--detector.name", name)
    out = tmp_path / "detector.onnx"
    assert main([str(run), "--out", str(out), "--size", "48", "60"]) == 0
    (image,) = onnx.load(out).graph.input
    assert [d.dim_value for d in image.type.tensor_type.shape.dim] == [3, 48, 60]


def test_a_file_that_answers_differently_is_found_out(run: Path) -> None:
    opened = open_run(run)
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
