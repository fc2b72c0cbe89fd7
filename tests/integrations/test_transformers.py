"""transformers' own Trainer trains with `attach`, and what it saves is plain transformers."""

import copy
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import TrainerCallback

from sssd import attach, detach
from sssd.integrations.pixels import Pixels
from sssd.integrations.transformers import DistillationCallback, callback
from sssd.integrations.transformers.host import TransformersHost
from tests.integrations.transformers_runs import (
    KINDS,
    SIDE,
    STEPWISE,
    collate,
    scenes,
    small,
    trainer,
)  # fmt: skip
from tests.torchrun import torchrun

PAGE = Path(__file__).resolve().parents[2] / "docs/integrations/transformers.md"
PROGRAM = Path(__file__).with_name("transformers_two_processes.py")
OURS = {"distillation_loss", "teacher_loss", "distillation_lambda"}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return scenes(tmp_path_factory.mktemp("digits"))


class Watch(TrainerCallback):
    """Step, lambda and losses of every forward pass, and what is logged."""

    def __init__(self) -> None:
        self.passes: list[tuple[int, float, dict[str, Any]]] = []
        self.logs: list[dict[str, Any]] = []

    def on_train_begin(self, *arguments: Any, model: Any, **others: Any) -> None:
        def see(part: Any, given: Any, losses: dict[str, Any]) -> None:
            self.passes.append((int(part.step), part.metrics["lambda"], losses))

        model.distillation.register_forward_hook(see)

    def on_log(self, *arguments: Any, logs: dict[str, Any], **others: Any) -> None:
        self.logs.append(logs)


def test_the_pixels_of_each_model_are_those_of_its_image_processor() -> None:
    """As in transformers' conversion of DEIMv2, which normalises them for DINOv3 alone."""
    backbone = transformers.DINOv3ViTConfig(
        hidden_size=32, num_attention_heads=2, num_hidden_layers=3, intermediate_size=32,
        out_indices=[1, 2, 3], reshape_hidden_states=True, num_register_tokens=0,
    )  # fmt: skip
    vision = small("Deimv2", backbone_config=backbone, encoder_has_trailing_conv=False)
    grey = torch.full((1, 3, 1, 1), 0.9)
    given = Pixels().into(TransformersHost(vision).pixels, grey)
    own = transformers.image_utils
    mean, std = (
        torch.tensor(x)[:, None, None]
        for x in (own.IMAGENET_DEFAULT_MEAN, own.IMAGENET_DEFAULT_STD)
    )
    torch.testing.assert_close(given[0], (grey[0] - mean) / std)
    assert all(TransformersHost(small(kind)).pixels == Pixels() for kind in KINDS)


@pytest.mark.parametrize("kind", ["RTDetr", "RTDetrV2"])
def test_in_float64(kind: str, rows: list[dict[str, Any]]) -> None:
    model = small(kind).double()
    attach(model)
    given = collate(rows[:2])
    labels = [{**one, "boxes": one["boxes"].double()} for one in given["labels"]]
    found = model(pixel_values=given["pixel_values"].double(), labels=labels)
    assert found.loss.dtype == torch.float64
    assert found.loss_dict["loss_distillation"] > 0


def step(model: torch.nn.Module, rows: list[dict[str, Any]], **changes: Any) -> Any:
    torch.manual_seed(1)  # denoising queries
    return model(**{**collate(rows[:2]), **changes})


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_added_and_reach_every_part(kind: str, rows: list[dict[str, Any]]) -> None:
    plain = small(kind).train()
    model = copy.deepcopy(plain)
    keys = model.state_dict().keys()
    part = attach(model)
    runs: list[int] = []
    backbone = getattr(model.model, "backbone", None) or model.model.conv_encoder
    backbone.register_forward_hook(lambda *_: runs.append(1))
    expected, found = step(plain, rows), step(model, rows)
    own = {name: found.loss_dict[name] for name in expected.loss_dict}
    assert all(torch.equal(own[name], loss) for name, loss in expected.loss_dict.items())
    added = {name: x for name, x in found.loss_dict.items() if name not in own}
    assert added.keys() == {f"teacher_{name}" for name in own} | {"loss_distillation"}
    torch.testing.assert_close(found.loss, expected.loss + sum(added.values()))
    assert runs == [1], "the backbone runs once"
    assert all(torch.equal(b, model.get_buffer(name)) for name, b in plain.named_buffers())
    gradients = torch.autograd.grad(
        added["loss_distillation"], list(model.model.encoder.parameters()),
        retain_graph=True, allow_unused=True,
    )  # fmt: skip
    assert sum(g.abs().sum() for g in gradients if g is not None) > 0
    found.loss.backward()
    assert all(p.grad is not None for p in part.parameters())
    as_tuple = step(model, rows, return_dict=False)
    assert as_tuple[1].keys() == found.loss_dict.keys()
    torch.testing.assert_close(as_tuple[0], sum(as_tuple[1].values()))
    detach(model)
    assert model.state_dict().keys() == keys
    assert step(model, rows).loss_dict.keys() == expected.loss_dict.keys()


def test_what_cannot_be_attached_to_is_refused() -> None:
    others = ("Detr", "DeformableDetr", "ConditionalDetr", "DabDetr", "LwDetr", "Yolos")
    for name in (*(f"{other}ForObjectDetection" for other in others), "RTDetrModel"):
        kind = getattr(transformers, name)
        with pytest.raises(TypeError, match=rf"model is a {name} .*transformers' RT-DETR"):
            attach(kind.__new__(kind))


def test_bad_labels_are_refused_before_the_model_runs(rows: list[dict[str, Any]]) -> None:
    model = small().train()
    attach(model)
    oriented = [{"boxes": torch.rand(2, 5), "class_labels": torch.zeros(2, dtype=torch.int64)}]
    with pytest.raises(ValueError, match=r'labels\[0\]\["boxes"\] has shape \(2, 5\): .*oriented'):
        step(model, rows, labels=oriented * 2)
    with pytest.raises(ValueError, match="pixel_values is missing"):
        step(model, rows, pixel_values=None, inputs_embeds=torch.zeros(2, 3, SIDE, SIDE))


def test_an_adapter_that_was_initialised_again_is_noticed(rows: list[dict[str, Any]]) -> None:
    class Early(transformers.RTDetrForObjectDetection):
        """Attaches where `from_pretrained` still is to come."""

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.loss_type = "RTDetrForObjectDetection"
            attach(self)

    model = small()
    early = Early.from_pretrained(None, config=model.config, state_dict=model.state_dict()).train()
    with pytest.raises(ValueError, match=r"adapter passes on .*Attach after from_pretrained"):
        step(early, rows)
    detach(early)
    attach(early)
    assert "loss_distillation" in step(early, rows).loss_dict


def test_weight_zero_is_plain_training_bit_for_bit(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    found = []
    for attached in (False, True):
        model = small()
        if attached:
            attach(model, coefficient=0.0)
        callback = DistillationCallback() if attached else TrainerCallback()
        run = trainer(model, rows, tmp_path, callback, steps=3)
        run.train()
        log = [(x["loss"], x["grad_norm"]) for x in run.state.log_history[:-1]]
        if attached:
            detach(model)
        found.append((log, model.state_dict()))
    (plain_log, plain), (log, off) = found
    assert log == plain_log
    assert plain.keys() == off.keys()
    assert all(torch.equal(off[name], value) for name, value in plain.items())


def test_lambda_and_the_log_follow_the_trainer(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    model, watch = small(), Watch()
    attach(model, coefficient=STEPWISE)
    run = trainer(
        model, rows, tmp_path, DistillationCallback(), watch, steps=3, logging_steps=2,
        gradient_accumulation_steps=2,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    run.optimizer = optimizer
    run.lr_scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
    run.train()
    assert [step for step, _, _ in watch.passes] == [0, 0, 1, 1, 2, 2]
    lambdas = [x for _, x, _ in watch.passes]
    assert lambdas == pytest.approx([4.7, 4.7, 9.4, 9.4, 18.8, 18.8], rel=1e-5)
    (log,) = [x for x in run.state.log_history if "loss" in x]
    mean = sum(x["loss_distillation"].item() for _, _, x in watch.passes[:4]) / 4
    assert log["distillation_loss"] == pytest.approx(mean, rel=1e-5)
    assert log["distillation_lambda"] == pytest.approx(9.4, rel=1e-5)
    assert 0 < log["distillation_loss"] + log["teacher_loss"] < log["loss"]
    assert watch.logs[0].keys() >= OURS, "callbacks after ours see the losses"


@pytest.fixture(scope="module")
def run_of_four(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Four steps with a checkpoint and an evaluation after every second, the best model loaded."""
    model = small()
    attach(model, coefficient=STEPWISE)
    run = trainer(
        model, rows, tmp_path_factory.mktemp("run"), steps=4, lr_scheduler_type="cosine",
        save_strategy="steps", save_steps=2, eval_strategy="steps", eval_steps=2,
        load_best_model_at_end=True, metric_for_best_model="eval_loss"
    )  # fmt: skip
    run.train()
    return run


def test_what_is_saved_for_use_is_plain(
    run_of_four: Any, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    run_of_four.save_model(str(tmp_path / "attached"))
    trainer(small(), rows, tmp_path, TrainerCallback()).save_model(str(tmp_path / "plain"))
    for folder in (tmp_path / "attached", Path(run_of_four.state.best_model_checkpoint)):
        saved = load_file(folder / "model.safetensors")
        assert saved.keys() == load_file(tmp_path / "plain/model.safetensors").keys()
        config = json.loads((folder / "config.json").read_text())
        assert config == json.loads((tmp_path / "plain/config.json").read_text())
    loaded, report = transformers.RTDetrForObjectDetection.from_pretrained(
        tmp_path / "attached", output_loading_info=True
    )
    assert not any(report.values())
    best = transformers.RTDetrForObjectDetection.from_pretrained(
        run_of_four.state.best_model_checkpoint
    )
    assert all(torch.equal(loaded.get_parameter(n), p) for n, p in best.named_parameters())
    assert all(
        torch.equal(run_of_four.model.get_parameter(n), p) for n, p in loaded.named_parameters()
    )


def test_evaluation_is_plain_while_attached(
    run_of_four: Any, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    plain = copy.deepcopy(run_of_four.model)
    detach(plain)
    run = trainer(plain, rows, tmp_path, TrainerCallback())
    step_before = int(run_of_four.model.distillation.step)
    assert run.evaluate()["eval_loss"] == run_of_four.evaluate()["eval_loss"]
    assert run_of_four.model.distillation.step == step_before


def test_a_run_that_is_taken_up_ends_where_one_in_a_piece_does(
    run_of_four: Any, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    first = Path(run_of_four.args.output_dir, "checkpoint-2")
    last = first.with_name("checkpoint-4")

    def take_up(callback: DistillationCallback) -> tuple[Any, Watch]:
        model, watch = small(), Watch()
        attach(model, coefficient=STEPWISE)
        run = trainer(model, rows, tmp_path, callback, watch, steps=4, lr_scheduler_type="cosine")
        run.train(resume_from_checkpoint=str(first))
        return model, watch

    model, watch = take_up(DistillationCallback(checkpoint=first))
    lambdas = [4.7 * 2 ** -math.log10((1 + math.cos(math.pi * s / 4)) / 2) for s in (2, 3)]
    assert [x for _, x, _ in watch.passes] == pytest.approx(lambdas, rel=1e-4)
    whole = transformers.RTDetrForObjectDetection.from_pretrained(last)
    assert all(torch.equal(model.state_dict()[n], x) for n, x in whole.state_dict().items())
    part = load_file(last / "distillation.safetensors")
    assert all(torch.equal(model.distillation.state_dict()[name], x) for name, x in part.items())
    with pytest.raises(ValueError, match=r"of this run in .*checkpoint-2: give"):
        take_up(DistillationCallback())  # the checkpoint is in another folder than the run
    with pytest.raises(ValueError, match=r"no distillation.safetensors of this run"):
        take_up(DistillationCallback(checkpoint=last))


def test_bf16_autocast(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    model = small()
    attach(model)
    run = trainer(model, rows, tmp_path, bf16=True)
    run.train()
    assert all(math.isfinite(x["distillation_loss"]) for x in run.state.log_history[:-1])
    assert run.state.log_history[0]["distillation_loss"] > 0


def test_fp16_with_a_scaler(rows: list[dict[str, Any]]) -> None:
    """A loop of our own: Trainer refuses fp16 on a CPU."""
    model = small().train()
    part = attach(model)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    model.forward = torch.autocast("cpu", torch.float16)(model.forward)  # as accelerate does
    before = [p.detach().clone() for p in part.parameters()]
    loss = step(model, rows).loss
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    assert loss.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in part.parameters())
    assert any(not torch.equal(p, b) for p, b in zip(part.parameters(), before, strict=True))


def test_a_teacher_of_another_kind_and_width(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    model, teacher = small("RTDetr"), small("DFine", width=96)
    weights = copy.deepcopy(teacher.state_dict())
    model.save_pretrained(tmp_path / "plain")
    attach(model, teacher=teacher, loss="cwd")
    before = [p.detach().clone() for p in model.distillation.parameters()]
    run = trainer(model, rows, tmp_path, steps=1)
    run.train()
    assert run.state.log_history[0]["distillation_loss"] > 0
    assert "teacher_loss" not in run.state.log_history[0]
    after = model.distillation.parameters()
    assert not any(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert all(torch.equal(teacher.state_dict()[name], x) for name, x in weights.items())
    run.save_model(str(tmp_path / "saved"))
    plain = load_file(tmp_path / "plain/model.safetensors")
    assert load_file(tmp_path / "saved/model.safetensors").keys() == plain.keys()


def test_what_would_train_without_distillation_is_refused(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    model = small()
    with pytest.raises(ValueError, match="has no distillation; attach"):
        trainer(model, rows, tmp_path).train()
    run = trainer(model, rows, tmp_path)
    run.create_optimizer()
    attach(model)
    with pytest.raises(ValueError, match="optimizer was made before attach"):
        run.train()
    with pytest.raises(ValueError, match="is a copy of the one"):
        trainer(copy.deepcopy(model), rows, tmp_path).train()
    run = trainer(model, rows, tmp_path)
    run.args.enable_jit_checkpoint = True
    with pytest.raises(ValueError, match="enable_jit_checkpoint is True"):
        run.train()


@pytest.mark.slow
def test_compiled(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    losses = []
    for arguments in ({}, {"torch_compile": True, "torch_compile_backend": "eager"}):
        model = small()
        attach(model)
        run = trainer(model, rows, tmp_path, **arguments)
        run.train()
        losses.append([(x["loss"], x["distillation_loss"]) for x in run.state.log_history[:-1]])
    assert losses[1] == [pytest.approx(pair, rel=1e-4) for pair in losses[0]]


@pytest.mark.slow
def test_two_processes_train_and_resume_as_one_model(tmp_path: Path) -> None:
    process = torchrun(PROGRAM, tmp_path)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first["log"][0].keys() >= OURS
    assert first["resumed"] == first["weights"]
    assert (tmp_path / "checkpoint-2/distillation.safetensors").is_file()


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSSD_CACHE", str(tmp_path / "cache"))
    (code,) = re.findall(r"```python\n(from pathlib.*?)```", PAGE.read_text(), re.DOTALL)
    space: dict[str, Any] = {"__name__": "script"}
    exec(compile(code, str(PAGE), "exec"), space)
    history = space["trainer"].state.log_history
    assert sum(x.keys() >= OURS for x in history) >= 2
    assert (tmp_path / "trained/model.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        ({"fsdp": ["full_shard"]}, {}),
        ({"deepspeed": "zero3.json"}, {}),
        ({}, {"ACCELERATE_USE_FSDP": "true"}),  # as accelerate launch does
        ({}, {"ACCELERATE_USE_DEEPSPEED": "True"}),
    ],
)
def test_what_shards_the_part_is_refused(
    arguments: dict[str, Any], environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    callback._refuse_arguments(SimpleNamespace(n_gpu=1))  # type: ignore[arg-type]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"(?i)fsdp|deepspeed"):
        callback._refuse_arguments(SimpleNamespace(n_gpu=1, **arguments))  # type: ignore[arg-type]
