"""detectron2's own trainer on real pictures; skipped where detectron2 is not installed.

docs/integrations/detectron2.md says how to install it.
"""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("detectron2")

from detectron2 import model_zoo
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyCall, get_cfg, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultTrainer, HookBase
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from fvcore.nn.precise_bn import update_bn_stats

from sssd.distillation import TeacherDistillation
from sssd.integrations import attach, detach
from sssd.integrations.detectron2 import add_sssd_config, distilled
from tests.integrations.pictures import CLASSES, eight_pictures

PAGE = Path(__file__).resolve().parents[2] / "docs/integrations/detectron2.md"
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
KINDS = ("RetinaNet", "SmallFCOS", "GeneralizedRCNN")
DENSE = KINDS[:2]
NARROW = {
    "RetinaNet": "retinanet_R_50_FPN_1x.yaml",
    "GeneralizedRCNN": "faster_rcnn_R_50_FPN_1x.yaml",
}


def small_fcos() -> Any:
    """The LazyConfig of an FCOS of 3 classes and 32 channels."""
    model = model_zoo.get_config("common/models/fcos.py").model
    model.num_classes, model.test_score_thresh = len(CLASSES), 0.0
    stages = model.backbone.bottom_up.stages
    stages.depth, stages.norm, model.backbone.bottom_up.stem.norm = 18, "BN", "BN"
    del stages.stride_in_1x1
    model.backbone.out_channels = model.backbone.top_block.in_channels = 32
    model.head.norm, model.head.conv_dims = "BN", [32]
    for shape in model.head.input_shape:
        shape.channels = 32
    return model


@META_ARCH_REGISTRY.register()
def SmallFCOS(cfg: Any) -> nn.Module:
    """An architecture as a user registers one."""
    return instantiate(small_fcos())


@pytest.fixture(scope="module", autouse=True)
def pictures(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    file, folder = eight_pictures(shared_data, tmp_path_factory.mktemp("pictures"))
    register_coco_instances("eight", {}, str(file), str(folder))
    yield
    DatasetCatalog.remove("eight")
    MetadataCatalog.remove("eight")


def config(kind: str, out: Path, **changes: Any) -> Any:
    """A detector of 32 channels on pictures of 128 pixels."""
    cfg = get_cfg()
    add_sssd_config(cfg)
    cfg.merge_from_file(
        model_zoo.get_config_file(f"COCO-Detection/{NARROW.get(kind, NARROW['RetinaNet'])}")
    )
    settings = {
        "OUTPUT_DIR": str(out),
        "DATASETS.TRAIN": ("eight",),
        "DATASETS.TEST": (),
        "DATALOADER.NUM_WORKERS": 0,
        "INPUT.MIN_SIZE_TRAIN": (128,),
        "MODEL.META_ARCHITECTURE": kind,
        "MODEL.DEVICE": "cpu",
        "MODEL.WEIGHTS": "",
        "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.RESNETS.DEPTH": 18,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
        "MODEL.RESNETS.NORM": "BN",
        "MODEL.FPN.OUT_CHANNELS": 32,
        "MODEL.RETINANET.NUM_CLASSES": len(CLASSES),
        "MODEL.RETINANET.NORM": "BN",
        "MODEL.ROI_HEADS.NUM_CLASSES": len(CLASSES),
        "MODEL.RETINANET.SCORE_THRESH_TEST": 0.0,
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
        "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
        "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 100,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": 3,
        "SOLVER.STEPS": (),
        "SOLVER.BASE_LR": 1e-3,
        **changes,
    }
    cfg.merge_from_list([x for pair in settings.items() for x in pair])
    return cfg


def with_distillation(kind: str, out: Path, coefficient: float = 4.7, **changes: Any) -> Any:
    changes = {"MODEL.SSSD.COEFFICIENT": coefficient, **changes}
    node = {"MODEL.SSSD.META_ARCHITECTURE": kind, "MODEL.META_ARCHITECTURE": "Distilled"}
    return config(kind, out, **{**node, **changes})


class Recorder(HookBase):
    """What the event storage holds after every step."""

    def __init__(self) -> None:
        self.log: list[dict[str, float]] = []

    def after_step(self) -> None:
        latest = self.trainer.storage.latest()
        self.log.append(
            {n: x for n, (x, at) in latest.items() if at == self.trainer.iter and "time" not in n}
        )


def train(cfg: Any, resume: bool = False) -> tuple[Any, list[dict[str, float]]]:
    """The model and log of a run of the framework's own trainer."""
    seed_all_rng(1)
    trainer, recorder = DefaultTrainer(cfg), Recorder()
    trainer.register_hooks([recorder])
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer.model, recorder.log


def own(log: list[dict[str, float]]) -> list[dict[str, float]]:
    """What plain training logs too, but for the sum."""
    ours = ("teacher_", "loss_distillation", "distillation/", "total_loss", "eta_")
    return [{n: x for n, x in step.items() if not n.startswith(ours)} for step in log]


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: x for n, x in model.state_dict().items() if not n.startswith("distillation.")}


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_of_zero_is_plain_training(kind: str, tmp_path: Path) -> None:
    """To the last digit but one: where tensors lie in memory decides how sums are vectorised."""
    plain, log = train(config(kind, tmp_path / "plain"))
    model, ours = train(with_distillation(kind, tmp_path / "zero", coefficient=0.0))
    assert own(ours) == [pytest.approx(step, rel=1e-6) for step in own(log)]
    torch.testing.assert_close(state(model), plain.state_dict(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_pass_on_enhanced_maps_leaves_no_trace(kind: str, tmp_path: Path) -> None:
    """Without a learning rate: own losses, what is logged beside them, statistics, normaliser."""
    still = {"SOLVER.BASE_LR": 0.0}
    plain, log = train(config(kind, tmp_path / "plain", **still))
    model, ours = train(with_distillation(kind, tmp_path / "ours", **still))
    steps = slice(None) if kind in DENSE else slice(1)  # later its boxes are drawn otherwise
    assert own(ours)[steps] == own(log)[steps]
    assert {*ours[0]} - {*log[0]} == {
        "loss_distillation",
        "distillation/lambda",
        *(f"teacher_{name}" for name in log[0] if name.startswith("loss_")),
    }
    torch.testing.assert_close(state(model), plain.state_dict(), rtol=0, atol=0)
    if kind in DENSE:
        assert model.loss_normalizer == plain.loss_normalizer


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_resumes_and_its_model_is_the_plain_one(kind: str, tmp_path: Path) -> None:
    changes = {"SOLVER.STEPS": (3,), "MODEL.SSSD.STEP_FACTOR": 2.0}
    first, log = train(with_distillation(kind, tmp_path, **changes, **{"SOLVER.MAX_ITER": 2}))
    adapter = first.distillation.adapter.state_dict()
    longer = with_distillation(kind, tmp_path, **changes, **{"SOLVER.MAX_ITER": 4})
    restored = DefaultTrainer(longer)
    restored.resume_or_load(resume=True)
    torch.testing.assert_close(restored.model.distillation.adapter.state_dict(), adapter)
    model, more = train(longer, resume=True)
    assert [step["distillation/lambda"] for step in log + more] == [4.7, 4.7, 4.7, 9.4]

    plain = build_model(config(kind, tmp_path))
    file = str(tmp_path / "model_final.pth")
    assert torch.load(file, weights_only=False)["model"].keys() > plain.state_dict().keys()
    DetectionCheckpointer(plain).load(file)
    image = {"image": torch.rand(3, 96, 128) * 255, "height": 96, "width": 128}
    model.eval(), plain.eval()
    found, expected = (m([image])[0]["instances"] for m in (model, plain))
    assert len(found) > 0
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    torch.testing.assert_close(plain.state_dict(), state(model), rtol=0, atol=0)
    detach(model)
    assert model.state_dict().keys() == plain.state_dict().keys()


def batch(kind: str, out: Path) -> list[dict[str, Any]]:
    return next(iter(DefaultTrainer.build_train_loader(config(kind, out))))


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns_under_autocast_and_ddp(kind: str, tmp_path: Path) -> None:
    model = build_model(with_distillation(kind, tmp_path)).train()
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/s", rank=0, world_size=1
    )
    try:
        wrapped = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
        for _ in range(2):
            # fvcore's giou_loss, which the plain FCOS calls, refuses bf16 boxes and fp32 targets.
            halved = kind != "SmallFCOS"
            with EventStorage(), torch.autocast("cpu", torch.bfloat16, enabled=halved):
                losses = wrapped(batch(kind, tmp_path))
            sum(losses.values()).backward()
    finally:
        torch.distributed.destroy_process_group()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_statistics_estimated_anew_are_no_training(tmp_path: Path) -> None:
    """PreciseBN runs the model in training mode."""
    model = build_model(with_distillation("RetinaNet", tmp_path)).train()
    with EventStorage(5):
        update_bn_stats(model, [batch("RetinaNet", tmp_path)] * 2, 2)
    assert model.distillation.step == 0


def test_a_lazy_config_builds_it(tmp_path: Path) -> None:
    settings = {"coefficient": {"value": 4.7, "steps": {1: 9.4}}}
    model = instantiate(LazyCall(distilled)(model=small_fcos(), **settings))
    for iteration, expected in ((0, 4.7), (1, 9.4)):
        with EventStorage(iteration) as storage:
            losses = model(batch("SmallFCOS", tmp_path))
            assert storage.latest()["distillation/lambda"] == (expected, iteration)
    assert {"loss_distillation", "teacher_loss_fcos_ctr"} <= losses.keys()


def test_a_teacher_of_another_width(tmp_path: Path) -> None:
    wide = {"MODEL.FPN.OUT_CHANNELS": 48}
    teacher, model = (build_model(config("RetinaNet", tmp_path, **c)) for c in (wide, {}))
    before = copy.deepcopy(teacher.state_dict())
    attach(model, teacher=teacher, loss="cwd")
    with EventStorage():
        losses = model(batch("RetinaNet", tmp_path))
    assert set(losses) == {"loss_cls", "loss_box_reg", "loss_distillation"}
    losses["loss_distillation"].backward()
    assert model.backbone.fpn_lateral5.weight.grad.abs().sum() > 0
    assert [n for n, p in teacher.named_parameters() if p.grad is not None] == []
    torch.testing.assert_close(teacher.state_dict(), before, rtol=0, atol=0)
    assert not teacher.training
    assert not any("teacher" in name for name in model.state_dict())


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSSD_CACHE", str(tmp_path / "cache"))
    script, trainer, lazy, registered = PYTHON.findall(PAGE.read_text())
    try:
        exec(script, space := {})
    finally:
        DatasetCatalog.remove("scenes")
        MetadataCatalog.remove("scenes")
    page = space["cfg"].clone()
    page.MODEL.META_ARCHITECTURE = "RetinaNet"
    plain = build_model(page)
    plain.load_state_dict(torch.load("run/plain.pth")["model"])
    logged = [json.loads(line) for line in Path("run/metrics.json").read_text().splitlines()]
    assert logged[-1]["distillation/lambda"] == 9.4

    exec(trainer, taught := {"teacher": plain})
    cfg = config("RetinaNet", tmp_path)
    assert isinstance(taught["Trainer"].build_model(cfg).distillation, TeacherDistillation)
    exec(lazy, space)
    assert space["model"]._target_ is distilled
    exec(registered, space)
    assert "FCOSR50" in META_ARCH_REGISTRY
