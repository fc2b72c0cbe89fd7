"""mmdetection's own runner on real pictures; skipped where mmdetection is not installed.

docs/integrations/mmdetection.md says how to install it.
"""

import copy
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("mmdet")

from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import Runner

from sssd.data.demo import demo_data
from sssd.integrations import detach
from tests.integrations.pictures import CLASSES, eight_pictures

PAGE = Path(__file__).resolve().parents[2] / "docs/integrations/mmdetection.md"
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
KINDS = ("RetinaNet", "FasterRCNN")
numbers = itertools.count()

DETECTORS = {
    "RetinaNet": """
_base_ = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
model = dict(
    backbone=dict(depth=18, init_cfg=None, frozen_stages=-1, norm_eval=False),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=32),
    bbox_head=dict(
        num_classes=3, in_channels=32, feat_channels=32, stacked_convs=1,
        norm_cfg=dict(type="BN")),
    test_cfg=dict(score_thr=0.0))
""",
    "FasterRCNN": """
_base_ = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
model = dict(
    backbone=dict(depth=18, init_cfg=None, frozen_stages=-1, norm_eval=False),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=32),
    rpn_head=dict(in_channels=32, feat_channels=32),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=32),
        bbox_head=dict(num_classes=3, in_channels=32, fc_out_channels=32)),
    train_cfg=dict(rpn_proposal=dict(nms_pre=100, max_per_img=50)),
    test_cfg=dict(rcnn=dict(score_thr=0.0)))
""",
}
TRAINING = """
metainfo = dict(classes=%(classes)r)
pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=(160, 128), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs")]
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    dataset=dict(
        data_root="", ann_file=%(file)r, data_prefix=dict(img=%(folder)r), metainfo=metainfo,
        pipeline=pipeline))
train_cfg = dict(max_epochs=1)
val_dataloader = val_cfg = val_evaluator = test_dataloader = test_cfg = test_evaluator = None
param_scheduler = [dict(type="MultiStepLR", milestones=[1], by_epoch=True)]
default_hooks = dict(logger=dict(interval=1))
randomness = dict(seed=1)
"""
OURS = """
_base_ = "plain.py"
custom_imports = dict(imports="sssd.integrations.mmdetection")
model = dict(type="Distilled", detector=%(kind)r, distillation=%(settings)r)
custom_hooks = [dict(type="DistillationHook")]
"""


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Is kept to the end: mmengine's one visualizer writes into the folder of the first run."""
    return tmp_path_factory.mktemp("mmdetection")


@pytest.fixture
def write(shared_data: Path, tmp_path: Path) -> Any:
    """Writes the config files of a detector, and one with distillation; returns both."""
    file, folder = eight_pictures(shared_data, tmp_path)
    register_all_modules()

    def configs(kind: str, more: str = "", **settings: Any) -> tuple[Path, Path]:
        names = {"file": str(file), "folder": f"{folder}/", "classes": CLASSES}
        plain, ours = tmp_path / "plain.py", tmp_path / "ours.py"
        plain.write_text(DETECTORS[kind] + TRAINING % names + more)
        ours.write_text(OURS % {"kind": kind, "settings": {"coefficient": 4.7, **settings}})
        return plain, ours

    return configs


def train(file: Path, out: Path, **changes: Any) -> tuple[nn.Module, dict[str, list[float]]]:
    """The model and log of a run of the framework's own runner."""
    config = Config.fromfile(file)
    config.merge_from_dict(
        {"work_dir": str(out), "experiment_name": f"run{next(numbers)}", **changes}
    )
    runner = Runner.from_cfg(config)
    runner.train()
    scalars = runner.message_hub.log_scalars
    names = [n.removeprefix("train/") for n in scalars if "time" not in n]
    return runner.model, {n: [float(x) for x in scalars[f"train/{n}"].data[0]] for n in names}


def own(log: dict[str, list[float]], steps: slice = slice(None)) -> dict[str, list[float]]:
    """What plain training logs too, but for the sum."""
    ours = ("teacher_", "loss_distillation", "lambda")
    return {n: x[steps] for n, x in log.items() if not n.startswith(ours) and n != "loss"}


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: x for n, x in model.state_dict().items() if not n.startswith("distillation.")}


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_of_zero_is_plain_training(kind: str, write: Any, tmp_path: Path) -> None:
    plain, ours = write(kind, coefficient=0.0)
    expected, log = train(plain, tmp_path / "a")
    model, our_log = train(ours, tmp_path / "b")
    assert len(log["loss"]) == 4
    assert own(our_log) == own(log)
    torch.testing.assert_close(state(model), expected.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_pass_on_enhanced_maps_leaves_no_trace(kind: str, write: Any, tmp_path: Path) -> None:
    """Without a learning rate: own losses and statistics."""
    plain, ours = write(kind, "optim_wrapper = dict(optimizer=dict(lr=0.0))")
    expected, log = train(plain, tmp_path / "a")
    model, our_log = train(ours, tmp_path / "b")
    steps = slice(None) if kind == "RetinaNet" else slice(1)  # later its boxes are drawn otherwise
    assert own(our_log, steps) == own(log, steps)
    losses = [name for name in log if "loss" in name and name != "loss"]
    assert {*our_log} - {*log} == {"loss_distillation", "lambda", *(f"teacher_{n}" for n in losses)}
    torch.testing.assert_close(state(model), expected.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("average", [False, True])
def test_a_run_resumes_and_its_model_is_the_plain_one(
    average: bool, write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # mmengine 0.10 resumes objects
    kind = "FasterRCNN" if average else "RetinaNet"
    hooks = [{"type": "EMAHook", "momentum": 0.5}, {"type": "DistillationHook"}][1 - average :]
    plain, ours = write(kind, coefficient={"value": 4.7, "step_factor": 2.0})
    first, log = train(ours, tmp_path / "run", custom_hooks=hooks)
    saved = torch.load(tmp_path / "run/epoch_1.pth", weights_only=False)
    torch.testing.assert_close(saved["distillation"], dict(first.distillation.state_dict()))
    fresh = MODELS.build(Config.fromfile(plain).model)
    assert saved["state_dict"].keys() == fresh.state_dict().keys()
    fresh.load_state_dict(saved["state_dict"], strict=True)
    assert (
        saved["state_dict"]["neck.lateral_convs.0.conv.bias"]
        == first.neck.lateral_convs[0].conv.bias
    ).all() != average

    again = {"resume": True, "train_cfg.max_epochs": 2}
    second, more = train(ours, tmp_path / "run", custom_hooks=hooks, **again)
    assert log["lambda"] + more["lambda"][-4:] == pytest.approx([4.7] * 4 + [9.4] * 4)
    assert second.distillation.step == 7
    detach(second)
    assert second.state_dict().keys() == fresh.state_dict().keys()


@OPTIM_WRAPPERS.register_module()
class CPUAmp(OptimWrapper):
    """AmpOptimWrapper without the GPU that it asks for."""

    def optim_context(self, model: nn.Module) -> Any:
        return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_and_accumulation(kind: str, write: Any, tmp_path: Path) -> None:
    _, ours = write(kind)
    changes = {"optim_wrapper.type": "CPUAmp", "optim_wrapper.accumulative_counts": 2}
    model, log = train(ours, tmp_path / "run", **changes)
    assert torch.tensor(log["loss"]).isfinite().all()
    (data, *_) = Runner.build_dataloader(Config.fromfile(ours).train_dataloader)
    found = model.eval().test_step(copy.deepcopy(data))
    detach(model)
    expected = model.test_step(data)
    for one, other in zip(found, expected, strict=True):
        assert len(one.pred_instances) > 0
        torch.testing.assert_close(one.pred_instances.bboxes, other.pred_instances.bboxes)


@pytest.mark.parametrize("kind", KINDS)
def test_ddp(kind: str, write: Any, tmp_path: Path) -> None:
    _, file = write(kind)
    config = Config.fromfile(file)
    model = MODELS.build(config.model).train()
    loader = Runner.build_dataloader(config.train_dataloader, seed=1)
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), 1e-3))
    store = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        wrapped = MMDistributedDataParallel(model)
        logs = [wrapped.train_step(data, optimizer) for data in loader]
    finally:
        torch.distributed.destroy_process_group()
    assert len(logs) == 4  # a parameter without a gradient would end the second step
    assert all("loss_distillation" in log for log in logs)


def test_a_teacher_from_its_files(write: Any, tmp_path: Path) -> None:
    write("RetinaNet")
    wide = tmp_path / "wide.py"
    wide.write_text(
        '_base_ = "plain.py"\n'
        "model = dict(neck=dict(out_channels=48), bbox_head=dict(in_channels=48))"
    )
    teacher = MODELS.build(Config.fromfile(wide).model)
    torch.save({"state_dict": teacher.state_dict()}, tmp_path / "wide.pth")
    given = {"config": str(wide), "checkpoint": str(tmp_path / "wide.pth")}
    _, ours = write("RetinaNet", teacher=given, loss="cwd")
    model, log = train(ours, tmp_path / "run")
    assert {"loss_distillation"} == {n for n in log if "distillation" in n or "teacher" in n}
    taught_by, _ = model.distillation._taught_by
    torch.testing.assert_close(taught_by.state_dict(), teacher.state_dict(), rtol=0, atol=0)
    assert not taught_by.training


def test_a_hook_without_a_part_is_refused(write: Any, tmp_path: Path) -> None:
    plain, _ = write("RetinaNet", 'custom_imports = dict(imports="sssd.integrations.mmdetection")')
    with pytest.raises(ValueError, match="the runner's model has no distillation"):
        train(plain, tmp_path / "run", custom_hooks=[{"type": "DistillationHook"}])


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register_all_modules()
    monkeypatch.chdir(tmp_path)
    data = demo_data(tmp_path / "cache", 128, 8, 1)
    Path("data").mkdir()
    Path("data/train.json").symlink_to(data.train_json)
    Path("data/train").symlink_to(data.train_images)
    file, script = PYTHON.findall(PAGE.read_text())
    Path("distilled.py").write_text(file)
    exec(script, {})
    assert {"state_dict", "distillation"} < torch.load("run/epoch_2.pth", weights_only=False).keys()
