"""Connects `attach` to transformers' `Trainer`."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sssd.distillation import Stepwise
from sssd.integrations.attach import ATTRIBUTE

FILE = "distillation.safetensors"


class DistillationCallback(TrainerCallback):
    """Connects `attach` to a `Trainer`: steps, learning rate, log and checkpoints.

    - A step is an optimizer step, so the parts of an accumulated batch share a lambda, and lambda
    follows the Trainer's learning rate: see `Stepwise.follow`.
    - The log has "distillation_loss", "teacher_loss" and "distillation_lambda" in addition to
    "loss", each a mean since the last log and over the processes.
    - A checkpoint folder has the weights and step of the distillation in
    `distillation.safetensors`, next to the model, and `train(resume_from_checkpoint=...)` restores
    them.

    Args:
        checkpoint: the folder given to `train(resume_from_checkpoint=...)`, if it is not in the
            Trainer's output folder.

    Example:
        >>> attach(model, coefficient=4.7)  # doctest: +SKIP
        >>> trainer = Trainer(  # doctest: +SKIP
        ...     model, arguments, train_dataset=scenes, callbacks=[DistillationCallback()]
        ... )
    """

    def __init__(self, checkpoint: str | Path | None = None) -> None:
        self.checkpoint = checkpoint

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: Any,
        optimizer: Any,
        **others: Any,
    ) -> None:
        """Checks that the part will be trained, and takes up a checkpoint's."""
        part = _part_of(model)
        _refuse_arguments(args)
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if any(p.requires_grad and id(p) not in trained for p in part.parameters()):
            raise ValueError("the optimizer was made before attach(model): attach first")
        part.attachment.host.sums.clear()
        if state.global_step:
            places = (
                self.checkpoint,
                args.resume_from_checkpoint,
                Path(args.output_dir, f"checkpoint-{state.global_step}"),
            )
            folder = _folder_of(state, [Path(place) for place in places if place])
            _load_whole(model, folder)
            part.load_state_dict(load_file(folder / FILE))

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: Any,
        optimizer: Any,
        **others: Any,
    ) -> None:
        """Tells the part the step and its learning rate."""
        _part_of(model).follow(state.global_step, float(optimizer.param_groups[0]["lr"]))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: Any,
        logs: dict[str, Any],
        **others: Any,
    ) -> None:
        """Adds to what is logged of training."""
        part = getattr(model, ATTRIBUTE, None)
        if part is None or "loss" not in logs or part.coefficient.is_off:
            return
        sums = part.attachment.host.sums
        if not sums:
            raise RuntimeError(
                "the model trained, but attach saw none of its steps: train the model that was "
                "given to attach, not a copy of it"
            )
        added = {name: _mean(pair) for name, pair in sorted(sums.items())}
        sums.clear()
        added["distillation_lambda"] = part.metrics["lambda"]
        logs.update(added)
        state.log_history[-1].update(added)

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: Any,
        **others: Any,
    ) -> None:
        """Writes the part into the checkpoint's folder."""
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        if args.should_save and not state.is_hyper_param_search:
            tensors = {name: x.clone() for name, x in _part_of(model).state_dict().items()}
            save_file(tensors, folder / FILE)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: Any,
        **others: Any,
    ) -> None:
        """Loads all of the best model."""
        if args.load_best_model_at_end and state.best_model_checkpoint:
            _load_whole(model, state.best_model_checkpoint)


def _part_of(model: Any) -> Stepwise:
    part = getattr(model, ATTRIBUTE, None)
    if not isinstance(part, Stepwise):
        raise ValueError(
            "DistillationCallback: the Trainer's model has no distillation; attach(model) first"
        )
    if part.attachment.host.model is not model:
        raise ValueError(
            "DistillationCallback: the Trainer's model is a copy of the one that was given to "
            "attach; attach to this one"
        )
    return part


def _refuse_arguments(args: TrainingArguments) -> None:
    """What would train without distillation, or save without the part."""
    if args.n_gpu > 1:
        raise ValueError(
            f"the Trainer splits a batch over {args.n_gpu} GPUs with nn.DataParallel, whose copies "
            "do not distill: start one process per GPU with torchrun"
        )
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):  # by accelerate launch
        if os.environ.get(name, "false").lower() in ("true", "1"):
            raise ValueError(f"{name} is set: distillation does not support it")
    for name in ("fsdp", "deepspeed", "enable_jit_checkpoint"):
        if getattr(args, name, None):
            raise ValueError(
                f"TrainingArguments.{name} is {getattr(args, name)!r}: distillation does not "
                "support it"
            )


def _mean(pair: Tensor) -> float:
    """Mean over the passes of all processes."""
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(pair)
    total, number = pair.tolist()
    return float(total / number)


def _folder_of(state: TrainerState, places: Sequence[Path]) -> Path:
    """The checkpoint that a Trainer's state was loaded from: it has the same log.

    Raises:
        ValueError: there is none with a part.
    """
    for folder in places:
        if (folder / FILE).is_file():
            saved = TrainerState.load_from_json(str(folder / "trainer_state.json"))
            if json.dumps(saved.log_history) == json.dumps(state.log_history):
                return folder
    raise ValueError(
        f"found no {FILE} of this run in {', '.join(map(str, places))}: give "
        "DistillationCallback(checkpoint=...) the folder of train(resume_from_checkpoint=...). A "
        "checkpoint of a run without this callback cannot be resumed with it: load the model, "
        "attach, and start a new training"
    )


def _load_whole(model: Any, folder: str | Path) -> None:
    """Loads a model's weights by from_pretrained, which knows the names that they are saved by.

    Trainer (5.24) loads them by the names of the modules, and leaves what it does not find as it
    was: the attention of every model served but DEIMv2 (transformers' issues 43701 and 48805).
    """
    with torch.random.fork_rng(devices=[]):
        whole = type(model).from_pretrained(folder, local_files_only=True)
    model.load_state_dict(whole.state_dict(), strict=False)
