"""Ultralytics' own trainer trains with distillation: a few steps on real pictures, from a yaml."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.integrations.yolo import ARGUMENTS, END_TO_END, pictures, tiny_file

pytest.importorskip("ultralytics")

from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils.torch_utils import unwrap_model

from sssd.integrations.ultralytics import Trainer

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/integrations/ultralytics.md"
WITHOUT_SSSD = """
import sys
sys.modules["sssd"] = None  # importing it raises
from ultralytics import YOLO
from ultralytics.nn.tasks import load_checkpoint
for path in sys.argv[1:]:
    model, checkpoint = load_checkpoint(path)
    assert type(model).__module__ == "ultralytics.nn.tasks", type(model)
    assert not any("distillation" in name for name in model.state_dict())
    YOLO(path).predict("IMAGE", imgsz=64, verbose=False)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("pictures"))


class Stopped(Exception):
    """A run that is killed."""


def train(
    folder: Path, data: Path, trainer: type[DetectionTrainer], model: str = "", **changes: Any
) -> YOLO:
    """Trains two epochs of two batches each."""
    yolo = YOLO(model or tiny_file(folder))
    for event, callback in changes.pop("callbacks", {}).items():
        yolo.add_callback(event, callback)
    arguments = {**ARGUMENTS, "data": str(data), "project": str(folder), "name": "run"}
    yolo.train(trainer=trainer, **{**arguments, "exist_ok": True, "epochs": 2, **changes})
    return yolo


def table(folder: Path) -> list[dict[str, float]]:
    """The rows of results.csv."""
    rows = csv.DictReader((folder / "run/results.csv").read_text().splitlines())
    return [{name: float(value) for name, value in row.items()} for row in rows]


def stop_in(epoch: int) -> Any:
    """A callback that ends a run at the beginning of an epoch."""

    def stop(trainer: DetectionTrainer) -> None:
        if trainer.epoch == epoch:
            raise Stopped

    return stop


def state_of(path: Path) -> dict[str, Any]:
    model = torch.load(path, weights_only=False)
    return (model["ema"] or model["model"]).state_dict()


@pytest.mark.parametrize("name", ["yolov8n", "yolo26n"])
def test_it_trains_from_a_yaml(name: str, data: Path, tmp_path: Path) -> None:
    yolo = train(tmp_path, data, Trainer.with_settings(coefficient=2.0), f"{name}.yaml", epochs=1)
    (row,) = table(tmp_path)
    assert row["train/dis_loss"] > 0
    assert row["train/ke_loss"] > 0
    assert row["train/lambda"] == 2
    assert row["val/dis_loss"] == 0
    assert "distillation" not in dict(yolo.model.named_children())


def test_the_script_of_the_page(data: Path, tmp_path: Path) -> None:
    """yolo11n: it trains, validates, predicts and exports."""
    script = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    image = next((data.parent / "images/val").iterdir())
    here = {**ARGUMENTS, "project": str(tmp_path), "name": "run", "epochs": 1}
    for written, meant in (
        ('"coco8.yaml"', repr(str(data))),
        ('"bus.jpg"', f"{str(image)!r}, imgsz=64, verbose=False"),
        ("epochs=100, imgsz=640", ", ".join(f"{name}={value!r}" for name, value in here.items())),
        ("model.val()", f"model.val(data={str(data)!r}, workers=0, plots=False, verbose=False)"),
        ('format="onnx"', 'format="onnx", simplify=False, verbose=False'),
    ):
        assert script.count(written) == 1
        script = script.replace(written, meant)
    space: dict[str, Any] = {}
    exec(script, space)
    (row,) = table(tmp_path)
    assert row["train/dis_loss"] > 0
    assert row["train/lambda"] == pytest.approx(4.7)
    onnx = YOLO(tmp_path / "run/weights/best.onnx", task="detect")
    assert len(onnx.predict(image, imgsz=64, verbose=False)) == 1


@pytest.mark.slow
def test_lambda_follows_the_learning_rate_and_resumes(data: Path, tmp_path: Path) -> None:
    settings = {"coefficient": {"value": 2.0, "step_factor": 10.0}}
    steps: list[int] = []
    seen: list[dict[str, Any]] = []

    class Watched(Trainer):
        def optimizer_step(self) -> None:
            steps.append(int(self.part.step))
            super().optimizer_step()

        def resume_training(self, checkpoint: Any) -> None:
            super().resume_training(checkpoint)
            seen.append({n: x.clone() for n, x in self.part.state_dict().items()})

    watched = Watched.with_settings(**settings)
    with pytest.raises(Stopped):
        train(
            tmp_path, data, watched, epochs=4, lrf=0.001, nbs=4,
            callbacks={"on_train_epoch_start": stop_in(2)},
        )  # fmt: skip
    last = tmp_path / "run/weights/last.pt"
    best = tmp_path / "run/weights/best.pt"
    image = next((data.parent / "images/val").iterdir())
    script = tmp_path / "without.py"
    script.write_text(WITHOUT_SSSD.replace("IMAGE", str(image)))
    subprocess.run([sys.executable, script, last, best], check=True, cwd=tmp_path)
    saved = torch.load(last, weights_only=False)["optimizer"]["distillation"]
    assert all(type(value) is torch.Tensor for value in saved.values())
    YOLO(last).train(resume=True, trainer=watched)
    _, resumed = seen
    assert saved.keys() == resumed.keys()
    assert all(torch.equal(resumed[name], value) for name, value in saved.items())
    assert steps == list(range(8))
    rows = table(tmp_path)
    assert len(rows) == 4
    for (
        row
    ) in rows:  # step_factor 10: lambda is inverse to the learning rate, at most a hundredfold
        expected = 2 * min(rows[0]["lr/pg0"] / row["lr/pg0"], 100)
        assert row["train/lambda"] == pytest.approx(expected, rel=1e-4)
    for path in (last, best):
        assert b"distillation" not in path.read_bytes()
        assert b"sssd." not in path.read_bytes()  # a module; a folder may be called so


def test_a_plain_checkpoint_is_not_resumed_in_silence(data: Path, tmp_path: Path) -> None:
    callbacks = {"on_train_epoch_start": stop_in(1)}
    with pytest.raises(Stopped):
        train(tmp_path, data, DetectionTrainer, callbacks=callbacks)
    last = tmp_path / "run/weights/last.pt"
    with pytest.raises(ValueError, match="resume: the checkpoint has no distillation state"):
        YOLO(last).train(resume=True, trainer=Trainer)
    plain = last.rename(tmp_path / "plain.pt")
    train(tmp_path, data, Trainer, str(plain), epochs=1, pretrained=True)  # the message's way out
    (row,) = table(tmp_path)
    assert row["train/dis_loss"] > 0


@pytest.mark.parametrize("changes", [{}, END_TO_END], ids=["yolov8", "yolo26"])
def test_a_coefficient_of_zero_is_ultralytics_own_training(
    changes: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    found = []
    for trainer in (DetectionTrainer, Trainer.with_settings(coefficient=0.0)):
        train(tmp_path, data, trainer, tiny_file(tmp_path, **changes), epochs=1)
        found.append(state_of(tmp_path / "run/weights/last.pt"))
    plain, off = found
    assert plain.keys() == off.keys()
    assert all(torch.equal(off[name], value) for name, value in plain.items())


def test_statistics_of_the_moving_average_have_seen_k_alone(data: Path, tmp_path: Path) -> None:
    """They move before the first optimizer step, after which the weights differ."""
    found: list[dict[str, torch.Tensor]] = []

    def keep(trainer: DetectionTrainer) -> None:
        if trainer.ema.updates == 1:
            found.append({n: b.clone() for n, b in trainer.ema.ema.named_buffers()})

    for trainer in (DetectionTrainer, Trainer):
        train(tmp_path, data, trainer, epochs=1, callbacks={"on_train_batch_end": keep})
    plain, ours = found
    assert plain.keys() == ours.keys()
    assert all(torch.equal(ours[name], value) for name, value in plain.items())


def test_accumulated_batches_in_bf16_and_settings_in_epochs(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ultralytics itself refuses AMP on the CPU: `autocast` and `check_amp` of its utilities."""
    autocast = lambda enabled, device: torch.autocast("cpu", torch.bfloat16)  # noqa: E731
    monkeypatch.setattr("ultralytics.engine.trainer.autocast", autocast)
    coefficient = {"value": 2.0, "start": 1, "stop": 3, "steps": {2: 5.0}}
    updates: list[int] = []
    yolo = train(
        tmp_path, data, Trainer.with_settings(coefficient=coefficient), epochs=4, amp="bf16", nbs=8,
        callbacks={"on_train_end": lambda trainer: updates.append(trainer.ema.updates)},
    )  # fmt: skip
    rows = table(tmp_path)
    assert [row["train/lambda"] for row in rows] == [0, 2, 5, 0]
    assert [row["train/ke_loss"] > 0 for row in rows] == [True, True, True, False]
    assert updates == [4]
    assert all(value.isfinite().all() for value in yolo.model.state_dict().values())


def test_a_first_epoch_that_begins_again_knows_no_rate_of_before(
    data: Path, tmp_path: Path
) -> None:
    """Ultralytics halves the batch when memory is short, and warms up from a rate of 0 again."""
    seen: list[float] = []

    class Short(Trainer):
        def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
            batch = super().preprocess_batch(batch)
            seen.append(self.part.lambda_at(self.part.count))
            if len(seen) == 2:
                raise RuntimeError("CUDA out of memory")
            return batch

    settings = {"coefficient": {"value": 2.0, "step_factor": 10.0}}
    train(tmp_path, data, Short.with_settings(**settings), warmup_epochs=1)
    assert seen[: 2 + 4] == [2.0] * (2 + 4)


def test_it_recovers_from_a_loss_that_is_no_number(data: Path, tmp_path: Path) -> None:
    spoiled: list[int] = []

    def spoil(trainer: DetectionTrainer) -> None:
        if trainer.epoch == 1 and not spoiled:
            spoiled.append(int(trainer.part.step))
            trainer.loss = trainer.loss * torch.nan
            for parameter in trainer.part.parameters():
                nn.init.constant_(parameter, torch.nan)

    finite: list[bool] = []

    def look(trainer: DetectionTrainer) -> None:
        finite.append(all(p.isfinite().all() for p in trainer.part.parameters()))
        hooks = [h for m in trainer.ema.ema.modules() for h in m._forward_hooks.values()]
        assert not hooks  # they would be in last.pt

    callbacks = {"on_train_epoch_end": spoil, "on_train_end": look}
    train(tmp_path, data, Trainer, callbacks=callbacks)
    assert spoiled == [3]
    assert finite == [True]
    assert [row["epoch"] for row in table(tmp_path)] == [1, 2]


def test_a_teacher_from_a_checkpoint(data: Path, tmp_path: Path) -> None:
    wide = [[-1, 1, "Conv", [width, 3, 2]] for width in (8, 8, 32, 24, 64)]
    train(tmp_path, data, DetectionTrainer, tiny_file(tmp_path, backbone=wide), epochs=1)
    teacher = (tmp_path / "run/weights/last.pt").rename(tmp_path / "teacher.pt")
    trainer = Trainer.with_settings(teacher=str(teacher), loss="cwd", coefficient=3.0)
    yolo = train(tmp_path, data, trainer, epochs=1)
    (row,) = table(tmp_path)
    assert row["train/dis_loss"] > 0
    assert "train/ke_loss" not in row
    assert "distillation" not in dict(yolo.model.named_children())


@pytest.mark.parametrize(
    "changes", [{"compile": True}, {"distill_model": "teacher.pt"}, {"quantize": 8}]
)
def test_arguments_that_would_switch_it_off_are_refused(
    changes: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    (name,) = changes
    with pytest.raises(ValueError, match=f"{name}=.* does not work with .*: leave out {name}"):
        train(tmp_path, data, Trainer, **changes)


def test_other_tasks_are_refused(data: Path, tmp_path: Path) -> None:
    head = [[[2, 3, 4], 1, "OBB", ["nc", 1]]]
    with pytest.raises(TypeError, match=r"with the head OBB.*Detect are supported"):
        train(tmp_path, data, Trainer, tiny_file(tmp_path, head=head), task="detect")


@pytest.mark.slow
def test_settings_reach_the_processes_of_ddp(data: Path, tmp_path: Path) -> None:
    """Ultralytics pickles the class for them; two train here over gloo.

    Of itself it starts them for accelerators only (`world_size = 0` on the CPU, in
    `BaseTrainer.__init__`), on nccl.
    """
    from ultralytics.utils.dist import ddp_cleanup, generate_ddp_file

    arguments = {**ARGUMENTS, "data": str(data), "project": str(tmp_path), "name": "run"}
    arguments |= {"exist_ok": True, "epochs": 1, "model": tiny_file(tmp_path)}
    trainer = Trainer.with_settings(coefficient={"value": 3.0})(overrides=arguments)
    script = generate_ddp_file(trainer)
    program = [sys.executable, ROOT / "tests/integrations/ultralytics_on_gloo.py", script, tmp_path]
    here = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2"}
    try:
        processes = [
            subprocess.Popen(program, env={**here, "RANK": rank, "LOCAL_RANK": rank})
            for rank in "01"
        ]
        assert [process.wait(120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
        ddp_cleanup(trainer, script)
    (row,) = table(tmp_path)
    assert row["train/lambda"] == 3
    assert row["train/dis_loss"] > 0
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert any(name.startswith("distillation.") for name in first)
    floats = {n for n, x in first.items() if x.is_floating_point() and "running" not in n}
    assert all(torch.equal(first[name], second[name]) for name in floats)
    assert unwrap_model(trainer.model) == tiny_file(tmp_path)  # nothing is attached in the parent
