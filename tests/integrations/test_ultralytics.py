"""`attach` on Ultralytics' detection models, for those who have their own loop."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sssd.integrations import attach, detach
from tests.integrations.yolo import CLASSES, END_TO_END, SIZE, TINY, batch, tiny_model

pytest.importorskip("ultralytics")

BOTH = pytest.mark.parametrize("changes", [{}, END_TO_END], ids=["yolov8", "yolo26"])
OURS = {"ke_loss", "dis_loss", "lambda"}


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    return {name: p.grad for name, p in model.named_parameters()}


def buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: b.clone() for name, b in model.named_buffers() if "distillation" not in name}


@BOTH
def test_losses_are_added_and_reach_every_part(changes: dict[str, Any]) -> None:
    model = tiny_model(**changes)
    plain, own = model(batch())
    model = tiny_model(**changes)
    part = attach(model, coefficient=2.0)
    loss, items = model(batch())
    assert items.keys() - own.keys() == OURS
    assert torch.equal(loss[: len(plain)], plain)
    # Ultralytics multiplies its losses by the batch size, and shows them without.
    shown = torch.stack([items["ke_loss"], items["dis_loss"]])
    torch.testing.assert_close(loss[len(plain) :].detach(), shown * 2)
    assert items["lambda"] == 2
    (gradient,) = torch.autograd.grad(loss[-1], model.model[0].conv.weight, retain_graph=True)
    assert gradient.abs().sum() > 0
    loss.sum().backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    assert part.step == 1
    assert part.projection.width == 128


def test_labels_are_painted_where_the_network_sees_them() -> None:
    model = tiny_model()
    part = attach(model)
    seen: list[Any] = []
    part.register_forward_pre_hook(lambda module, args: seen.extend(args[1:3]))
    model(batch())
    (first, second), size = seen
    assert size == (SIZE, SIZE)
    assert first["boxes"].shape == (0, 4)
    assert second["labels"].tolist() == [3, CLASSES - 1]
    expected = torch.tensor([[0.1, 0.05, 0.5, 0.55], [0.3, 0.15, 0.9, 0.85]]) * SIZE
    torch.testing.assert_close(second["boxes"], expected)


@BOTH
def test_statistics_have_seen_k_alone(changes: dict[str, Any]) -> None:
    found = []
    for attached in (False, True):
        model = tiny_model(**changes)
        if attached:
            attach(model)
        model(batch())
        found.append(buffers(model))
    plain, ours = found
    assert len(plain) > 20
    assert all(torch.equal(ours[name], value) for name, value in plain.items())


@BOTH
def test_a_coefficient_of_zero_is_plain_training_bit_for_bit(changes: dict[str, Any]) -> None:
    found = []
    for attached in (False, True):
        model = tiny_model(**changes)
        drawn = torch.get_rng_state()
        if attached:
            attach(model, coefficient=0.0)
        assert torch.equal(torch.get_rng_state(), drawn)
        loss, items = model(batch())
        loss.sum().backward()
        if attached:
            detach(model)
        found.append({"loss": loss, **items, **gradients(model), **buffers(model)})
    plain, off = found
    assert plain.keys() == off.keys()
    for name, value in plain.items():
        assert value is off[name] is None or torch.equal(off[name], value), name


def test_copies_do_not_fire_and_are_stripped_clean() -> None:
    model = tiny_model()
    attach(model)
    model(batch())
    duplicate = copy.deepcopy(model)
    assert OURS.isdisjoint(duplicate(batch())[1])
    detach(duplicate)
    assert duplicate.state_dict().keys() == tiny_model().state_dict().keys()
    assert b"sssd" not in pickle.dumps(duplicate)
    assert model(batch())[1].keys() > OURS
    restored = pickle.loads(pickle.dumps(model))
    assert restored(batch())[1].keys() > OURS
    assert restored.distillation.step == 3
    detach(model)
    assert OURS.isdisjoint(model(batch())[1])
    assert b"sssd" not in pickle.dumps(model)


def test_evaluation_while_attached() -> None:
    model = tiny_model().eval()
    expected = model(batch()["img"])[0]
    part = attach(model)
    assert torch.equal(model(batch()["img"])[0], expected)
    assert OURS.isdisjoint(model(batch())[1])  # Ultralytics validates with the loss
    model.train()(batch()["img"])  # images alone have no labels
    assert part.step == 0


def test_a_step_without_the_pass_on_k_e_has_the_same_columns() -> None:
    model = tiny_model()
    attach(model, teacher_every=2, coefficient={"value": 1.0, "stop": 3})
    rows = [model(batch())[1] for _ in range(4)]
    assert [row.keys() for row in rows[1:]] == [rows[0].keys()] * 3
    assert [bool(row["ke_loss"] > 0) for row in rows] == [False, True, False, False]
    assert [float(row["lambda"]) for row in rows] == [1, 1, 1, 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_with_a_scaler(dtype: torch.dtype) -> None:
    """In fp16 as on a CUDA device; Ultralytics' own trainer offers a CPU bf16 only."""
    found = []
    for scale in (1.0, 1024.0):
        model = tiny_model()
        attach(model)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        with torch.autocast("cpu", dtype):
            loss, _ = model(batch())
        scaler.scale(loss.sum()).backward()
        scaler.unscale_(optimizer)
        assert all(g.isfinite().all() for g in gradients(model).values() if g is not None)
        drawn = dict(model.distillation.adapter.named_parameters())
        assert [n for n, p in drawn.items() if not p.grad.any()] == []
        found.append(model.distillation.adapter.state_dict())
        scaler.step(optimizer)
        found.append(gradients(model)["model.0.conv.weight"])
    torch.testing.assert_close(found[1], found[3], rtol=0.2, atol=1e-2)


def test_a_teacher_of_another_width() -> None:
    wide = {"backbone": [[-1, 1, "Conv", [width, 3, 2]] for width in (8, 8, 32, 24, 64)]}
    teacher = tiny_model(**wide)
    before = buffers(teacher)
    model = tiny_model()
    names = set(model.state_dict())
    part = attach(model, teacher=teacher, loss="cwd", coefficient=3.0)
    loss, items = model(batch())
    assert items.keys() & OURS == {"dis_loss", "lambda"}
    torch.testing.assert_close(loss[-1].detach(), items["dis_loss"] * 2)
    loss.sum().backward()
    assert model.model[0].conv.weight.grad.abs().sum() > 0
    assert [type(p).__name__ for p in part.projections] == ["Conv2d", "Identity", "Conv2d"]
    assert not teacher.training
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in buffers(teacher).items())
    own = {"weight", "bias"}
    added = {f"distillation.projections.{i}.{name}" for i in (0, 2) for name in own}
    assert set(model.state_dict()) - names >= added
    assert sum(p.numel() for p in part.parameters()) == 16 * 32 + 32 + 32 * 64 + 64
    detach(model)
    assert set(model.state_dict()) == names


def test_what_cannot_be_attached_to_is_refused() -> None:
    from ultralytics import YOLO
    from ultralytics.nn import tasks

    for name, kind in (("OBB", tasks.OBBModel), ("Segment", tasks.SegmentationModel)):
        head = [[[2, 3, 4], 1, name, ["nc", 1] if name == "OBB" else ["nc", 32, 64]]]
        config = {**TINY, "head": head}
        for made in (kind, tasks.DetectionModel):  # a DetectionTrainer makes the latter
            with pytest.raises(
                TypeError, match=f"with the head {name}.*Detect are supported.*axis-aligned"
            ):
                attach(made(config, verbose=False))
    pose = tasks.PoseModel("yolo11n-pose.yaml", verbose=False)
    with pytest.raises(TypeError, match="a PoseModel with the head Pose"):
        attach(pose)
    with pytest.raises(TypeError, match=r"model is a YOLO of .*DetectionModel"):
        attach(YOLO("yolo11n.yaml"))
