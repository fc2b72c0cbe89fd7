"""The command: files that other programs read, checked, and what it says to bad input."""

import contextlib
import dataclasses
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import safe_open
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms.v2.functional import resize

from sssd import predict
from sssd.data import read_image
from sssd.data.settings import DataConfig
from sssd.detectors import Detector, build_detector
from sssd.engine.files import RunError
from sssd.engine.onnx_file import _TracedTransform, check_onnx, in_order_of, to_onnx
from sssd.engine.onnx_predictor import open_onnx
from sssd.engine.runs import Run, load, plain_model, to_rebuild
from sssd.engine.state import export_weights
from sssd.export import main
from tests.runs import make_run
from tests.small import small_config
from tests.torchrun import ROOT


@pytest.fixture(scope="module")
def run(finished_run: Path) -> Path:
    return finished_run


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An ONNX file of the run, and what the command said."""
    file, said = tmp_path_factory.mktemp("exported") / "detector.onnx", io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main([str(run), "--out", str(file)]) == 0
    return file, said.getvalue()


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


@pytest.mark.parametrize(
    "name",
    ["fcos", *(pytest.param(name, marks=pytest.mark.slow) for name in ("retinanet", "fasterrcnn"))],
)
def test_onnx_answers_as_pytorch_on_images_of_any_size(
    name: str,
    run: Path,
    exported: tuple[Path, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, said = exported
    if name != "fcos":
        run, out = make_run(tmp_path, "--detector.name", name), tmp_path / "detector.onnx"
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
    wide = resize(
        read_image(run.parent / "data/val/3.png"), [96, 240]
    )  # as large as twice, 4 times
    (found,) = open_onnx(out, 0.0).predict(wide)
    (small,) = session.run(["boxes"], {"image": resize(wide.float() / 255, [48, 60]).numpy()})
    torch.testing.assert_close(found.boxes, torch.from_numpy(small) * torch.tensor([4, 2, 4, 2]))


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
        head.bbox_reg.bias += 0.01  # so little that as many objects stay
    with pytest.raises(RunError, match="boxes differ from PyTorch's"):
        check_onnx(written, opened.detector, image)


def test_wrong_use_is_status_two(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "detector.onnx")
    cases = {
        "must end in .onnx or .safetensors": [str(run), "--out", str(tmp_path / "detector.pt")],
        "--size is (8, 64)": [str(run), "--out", out, "--size", "8", "64"],
        "--max-detections is 0; it must be at least 1": [
            *(str(run), "--out", out, "--max-detections", "0")
        ],
        "--max-detections has no effect here": [
            *(str(run), "--out", str(tmp_path / "a.safetensors"), "--max-detections", "5")
        ],
        "absent.png": [str(run), "--out", out, "--image", str(tmp_path / "absent.png")],
        "no such folder": [str(tmp_path / "absent"), "--out", out],
    }
    for said, arguments in cases.items():
        status, message = fails(capsys, *arguments)
        assert status == 2, message
        assert said in message
    assert not list(tmp_path.iterdir())


def test_the_runs_own_files_are_not_written_over(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "model.safetensors").read_bytes()
    with pytest.raises(SystemExit):
        main([str(run), "--weights", "best", "--out", str(run / "model.safetensors")])
    assert "model.safetensors belongs to the run" in " ".join(capsys.readouterr().err.split())
    assert (run / "model.safetensors").read_bytes() == before


def test_a_file_says_how_it_is_used(run: Path, exported: tuple[Path, str]) -> None:
    model = onnx.load(exported[0])
    about = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    table = (ROOT / "docs/export.md").read_text().partition("| key | value |")[2].split("\n\n")[0]
    assert set(about) == set(re.findall(r"`(\w+)`", re.sub(r"\|[^|]*\|$", "|", table, flags=re.M)))
    best = json.loads((run / "thresholds.json").read_text())["all"]
    assert (about["threshold"], about["size"], about["pixel_range"]) == (best, None, None)
    assert about["max_detections"] == 100
    assert about["normalisation"] == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    assert (about["detector"]["max_size"], about["classes"]) == (64, ["kind0", "kind1"])
    assert [x.name for x in model.graph.input] == [*about["input"]]
    assert [x.name for x in model.graph.output] == [*about["outputs"]]


def test_predict_with_a_file_as_with_its_run(
    run: Path, exported: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, lines = str(run.parent / "data" / "val"), []
    for source in (run, exported[0]):
        assert predict.main([str(source), images, "--threshold", "0.3"]) == 0
        lines.append(capsys.readouterr().out)
    assert lines[0] == lines[1]
    assert lines[0].count("kind") > 2
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    foreign = onnx.load(exported[0])
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    cases = {
        "not a usable ONNX file": ["broken.onnx"],
        "its metadata lacks 'classes'": ["foreign.onnx"],
        "no such file": ["absent.onnx"],
        "--device is cuda": ["foreign.onnx", "--device", "cuda"],
        "--weights is best": ["foreign.onnx", "--weights", "best"],
        "--max-detections is 5": ["foreign.onnx", "--max-detections", "5"],
    }
    for said, (name, *flags) in cases.items():
        with pytest.raises(SystemExit) as exit_info:
            predict.main([str(tmp_path / name), images, *flags])
        assert exit_info.value.code == 2
        assert said in capsys.readouterr().err


def blocks(name: str) -> list[str]:
    """The Python of the page of this name."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / name).read_text(), re.S)


def test_the_pages_script_runs_without_sssd(
    run: Path, exported: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script, image = blocks("export.md")[0], run.parent / "data" / "val" / "1.png"
    assert len(script.splitlines()) <= 15
    (tmp_path / "detect.py").write_text(f"import sys\nsys.modules['sssd'] = None\n{script}")
    command = [sys.executable, str(tmp_path / "detect.py"), str(exported[0]), str(image)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    (found,) = load(run).predict(image, threshold=0.3)
    first = next(iter(found))
    assert len(result.stdout.splitlines()) == len(found) > 0
    assert result.stdout.startswith(f"{image}: {first.name} {first.score:.2f} [")


@pytest.mark.parametrize(
    ("name", "backbone", "used"),
    [
        ("retinanet", "resnet18", [1]),
        ("fasterrcnn", "resnet18", [1, 2]),
        ("fcos", "efficientnet_lite0", [3]),
    ],
)
def test_the_pages_lines_load_the_weights(
    name: str, backbone: str, used: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_lite = backbone == "efficientnet_lite0"
    config = dataclasses.replace(
        small_config(),
        name=name,
        backbone=backbone,
        weights="imagenet" if is_lite else None,
        p6_from="c5" if name == "retinanet" else "p5",
    )
    detector = build_detector(config, 2).eval()
    trained = Run(tmp_path, detector, ["a", "b"], [1, 2], to_rebuild(config), DataConfig(), 1)
    export_weights(tmp_path / "model.safetensors", plain_model(detector), trained.metadata())
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for number in used:
        code = blocks("export.md")[number]
        if number != used[-1]:  # what the next block takes from it
            code = code.partition("extra = ")[0]
        exec(code, names)
    model, own = names["model"], plain_model(detector)
    assert not model.training
    batch = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        pairs = zip(model.backbone(batch).values(), own.backbone(batch).values(), strict=True)
    for mine, wanted in pairs:  # batch norms and frozen ones round differently
        torch.testing.assert_close(mine, wanted, atol=1e-4, rtol=1e-3)
    sizes = [(m.transform.min_size[-1], m.transform.max_size) for m in (model, own)]
    assert sizes[0] == sizes[1]
    assert model([batch[0]])[0].keys() == {"boxes", "scores", "labels"}
    state = model.state_dict()
    for key, value in own.state_dict().items():
        if not key.endswith("num_batches_tracked"):  # a frozen one does not count
            assert torch.equal(state[key], value), key


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
