"""What a loop of one's own does with an attached detector of torchvision."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sssd.integrations import attach, detach
from tests.integrations.yolo import real
from tests.small import NUM_CLASSES, images_and_targets
from tests.tiny import tiny_detector
from tests.torchrun import ROOT, torchrun

PAGE = ROOT / "docs/integrations/torchvision.md"
COEFFICIENT = {"value": 1.0, "steps": {2: 3.0}}


def build() -> nn.Module:
    return tiny_detector("fcos", classes=NUM_CLASSES).model.train()


def train(model: nn.Module, optimizer: Any, steps: range, ema: Any = None) -> None:
    for step in steps:
        sum(model(*images_and_targets(step)).values()).backward()
        optimizer.step()
        optimizer.zero_grad()
        if ema is not None:
            ema.update_parameters(model)


def prepared() -> tuple[nn.Module, torch.optim.Optimizer, AveragedModel]:
    model = build()
    attach(model, coefficient=COEFFICIENT)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    return model, optimizer, ema


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path: Path) -> None:
    whole = prepared()
    train(whole[0], whole[1], range(4), whole[2])
    first = prepared()
    train(first[0], first[1], range(2), first[2])
    torch.save([part.state_dict() for part in first], tmp_path / "last.pt")
    resumed = prepared()
    for part, state in zip(resumed, torch.load(tmp_path / "last.pt"), strict=True):
        part.load_state_dict(state)
    train(resumed[0], resumed[1], range(2, 4), resumed[2])
    for one, other in ((whole[0], resumed[0]), (whole[2], resumed[2])):
        expected, found = one.state_dict(), other.state_dict()
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert resumed[0].distillation.step == 4
    assert resumed[0].distillation.metrics["lambda"] == 3


def test_the_moving_average_is_a_plain_detector_when_detached() -> None:
    model, optimizer, ema = prepared()
    train(model, optimizer, range(2), ema)
    detach(ema.module)
    assert ema.module.state_dict().keys() == build().state_dict().keys()
    (images, targets) = images_and_targets()
    assert not any("distillation" in name for name in ema.module.train()(images, targets))
    assert len(ema.module.eval()(images)) == 2


def test_mixed_precision_with_a_scaler_and_accumulation() -> None:
    found = []
    for scale in (1.0, 1024.0):
        model = build()
        attach(model)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for part in range(2):
            with torch.autocast("cpu", torch.bfloat16):
                losses = model(*images_and_targets(part))
            scaler.scale(sum(losses.values()) / 2).backward()
        scaler.unscale_(optimizer)
        found.append([p.grad.clone() for p in model.parameters()])
        assert model.distillation.step == 2
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0.1, atol=1e-3)


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    process = torchrun(ROOT / "tests/integrations/torchvision_on_gloo.py", tmp_path)
    assert process.wait(120) == 0, process.stderr.read()
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert (first["distillation.step"], first["lambda"]) == (42, 3.0)
    assert all(torch.equal(second[name], value) for name, value in first.items())
    untrained = build()
    attach(untrained)
    adapter = untrained.distillation.adapter.state_dict().items()
    assert not all(torch.equal(first[f"distillation.adapter.{name}"], x) for name, x in adapter)


def test_a_detached_model_exports_to_onnx(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model, optimizer, _ = prepared()
    train(model, optimizer, range(1))
    detach(model)
    image, path = torch.rand(3, 64, 64), str(tmp_path / "detector.onnx")
    model.eval()
    model.score_thresh = 0.0  # else it finds nothing
    torch.onnx.export(model, ([image],), path, dynamo=False, opset_version=17)
    session = onnxruntime.InferenceSession(path)
    (name,) = (entry.name for entry in session.get_inputs())
    boxes = session.run(None, {name: image.numpy()})[0]
    found = model([image])[0]["boxes"]
    torch.testing.assert_close(torch.from_numpy(boxes), found, rtol=1e-3, atol=1e-2)


def test_the_script_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    record, images = real(tmp_path, "train", 4)
    (tmp_path / "coco/annotations").mkdir(parents=True)
    (tmp_path / "coco/train").symlink_to(images)
    (tmp_path / "coco/annotations/instances_train.json").write_text(json.dumps(record))
    small = lambda num_classes, **_: tiny_detector("fcos", num_classes).model  # noqa: E731
    monkeypatch.setattr("torchvision.models.detection.fcos_resnet50_fpn", small)
    text = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    written = "EPOCHS, SIZE, BATCH = 12, 800, 4"
    assert text.count(written) == 1
    for epochs in (1, 2):  # the second time it resumes
        exec(text.replace(written, f"EPOCHS, SIZE, BATCH = {epochs}, 64, 2"), {})
        saved = torch.load("last.pt")
        assert saved["epoch"] == epochs
        assert saved["model"]["distillation.step"] == 2 * epochs
    assert not any("distillation" in name for name in torch.load("detector.pt"))
