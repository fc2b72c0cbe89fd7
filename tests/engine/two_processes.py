"""What two processes do together, started by torchrun from test_distributed.py.

    torchrun --nproc-per-node 2 two_processes.py FOLDER

FOLDER holds the data; each process leaves what it saw in FOLDER/rank0.pt and rank1.pt.
"""

import os
import signal
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor

from sssd.data import read_coco
from sssd.detectors.settings import DetectorName
from sssd.engine.distributed import from_first, gather, process_group, with_shared_gradients
from sssd.engine.inference import evaluate_detector
from sssd.engine.loop import Trainer
from sssd.engine.settings import EngineConfig
from sssd.methods import (
    LabelEncStep1Config,
    Method,
    MethodConfig,
    PlainConfig,
    SSSDConfig,
    StepResult,
    build_method,
)
from sssd.methods.settings import MethodName
from sssd.schedules import CoefficientConfig, ScheduleConfig
from tests.small import method_config
from tests.tiny import tiny_detector, train

SCHEDULE = ScheduleConfig(iterations=4, learning_rate=0.05, milestones=(2,), warmup=0)
CONFIG = EngineConfig(batch_size=4, workers=0, ema_decay=0.5, log_every=1, checkpoint_every=2)
RETINANET = SSSDConfig(root="row")
STOP_AT = 1
SCALE = 1024.0


def run(
    folder: Path,
    name: str,
    detector: DetectorName,
    method: MethodConfig,
    config: EngineConfig = CONFIG,
) -> Trainer:
    """Trains a tiny detector on the data of the folder."""
    dataset = read_coco(folder / "annotations/instances_train.json")
    built = build_method(tiny_detector(detector), method, SCHEDULE)
    return train(built, dataset, folder / name, config, SCHEDULE, console=None)


def weights(trainer: Trainer) -> dict[str, Tensor]:
    """What was trained, or its moving average."""
    return trainer.detector.state_dict()


class StopsHere(Method):
    """Plain training in which one process is told to stop."""

    def __init__(self, method: Method) -> None:
        super().__init__(method.detector, method.config, method.schedule)
        self.method = method

    def forward(self, images, targets, iteration):
        if dist.get_rank() == 1 and iteration == STOP_AT:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.method(images, targets, iteration)


class OverflowsHere(Method):
    """Plain training whose losses are infinite on one process in one step.

    Attributes:
        sums: of the weights that each step has begun with.
    """

    def forward(self, images, targets, iteration):
        total = sum(float(p.double().sum()) for p in self.parameters())
        self.sums = [*getattr(self, "sums", []), total]
        losses, metrics = super().forward(images, targets, iteration)
        if dist.get_rank() == 1 and iteration == STOP_AT:
            losses = {name: loss * float("inf") for name, loss in losses.items()}
        return StepResult(losses, metrics)


def in_fp16(folder: Path) -> tuple[float, list[float]]:
    """The scale of the losses after such a run, and a sum of the weights before each step."""
    dataset = read_coco(folder / "annotations/instances_train.json")
    method = OverflowsHere(tiny_detector(), PlainConfig(), SCHEDULE)
    config = replace(CONFIG, precision="fp16")
    gentle = partial(torch.amp.GradScaler, init_scale=SCALE)  # overflows at no other step
    fp32 = patch.object(torch, "autocast", lambda *_, enabled: nullcontext())  # fp16 takes seconds
    with patch.object(torch.amp, "GradScaler", gentle), fp32:
        trainer = train(method, dataset, folder / "fp16", config, SCHEDULE, console=None)
    return trainer.train_step.scaler.get_scale(), method.sums


def interrupted(folder: Path) -> Trainer:
    """A run that process 1 is told to stop in, and which then goes on.

    LabelEnc's step 1 draws random numbers of each process in every step.
    """
    dataset = read_coco(folder / "annotations/instances_train.json")
    stops = StopsHere(build_method(tiny_detector(), LabelEncStep1Config(), SCHEDULE))
    first = train(stops, dataset, folder / "stopped", CONFIG, SCHEDULE, console=None)
    assert first.signal == signal.SIGTERM, "both processes stop"
    torch.manual_seed(99)
    stops = StopsHere(build_method(tiny_detector(), LabelEncStep1Config(), SCHEDULE))
    return train(stops, dataset, folder / "stopped", CONFIG, SCHEDULE, console=None)


def without_boxes(folder: Path, name: MethodName, detector: DetectorName) -> list[str]:
    """Parameters that lack a gradient in some step; process 1 has no boxes in some of them."""
    changes = {}
    if name == "labelenc_step2":
        changes["step1_weights"] = folder / f"{detector}.safetensors"
    elif name == "labelenc_step1":
        method = build_method(tiny_detector(detector), method_config(name), SCHEDULE)
        from_first(lambda: save_step1(method, folder / f"{detector}.safetensors"))
    config = method_config(
        name,
        coefficient=CoefficientConfig(start=2, stop=4),
        teacher_every=2,
        frozen_backbone=3,
        **changes,
    )
    method = build_method(tiny_detector(detector), config, SCHEDULE)
    model = with_shared_gradients(method)
    lacking = []
    for iteration in range(5):
        images, targets = batch(empty=dist.get_rank() == 1 and iteration != 1)
        method.zero_grad(set_to_none=True)
        torch.stack(list(model(images, targets, iteration).losses.values())).sum().backward()
        named = [(n, p) for n, p in method.named_parameters() if p.requires_grad]
        lacking += [f"{name} {detector} {iteration}: {n}" for n, p in named if p.grad is None]
        for n, p in named:
            first = p.grad.clone()
            dist.broadcast(first, 0)
            assert torch.equal(first, p.grad), f"{name} {detector} {iteration}: {n} differs"
    return lacking


def save_step1(method: Method, path: Path) -> None:
    """Leaves what step 2 of LabelEnc begins with."""
    from sssd.engine.state import export_weights

    export_weights(path, method.export()["step1"], {})


def batch(empty: bool) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Two images with a box each, or without any."""
    generator = torch.Generator().manual_seed(dist.get_rank())
    images = [torch.rand(3, 64, 64, generator=generator) for _ in range(2)]
    boxes = torch.zeros(0, 4) if empty else torch.tensor([[8.0, 8.0, 40.0, 48.0]])
    labels = torch.zeros(len(boxes), dtype=torch.int64)
    return images, [{"boxes": boxes, "labels": labels}] * 2


def main(folder: Path) -> None:
    """Everything, in one start of the processes."""
    torch.set_num_threads(1)
    seen: dict[str, object] = {}
    with process_group("cpu"):
        seen["fcos"] = weights(run(folder, "fcos", "fcos", PlainConfig()))
        seen["retinanet"] = weights(run(folder, "retinanet", "retinanet", RETINANET))
        halves = replace(CONFIG, accumulate=2)
        seen["accumulated"] = weights(
            run(folder, "accumulated", "retinanet", RETINANET, config=halves)
        )
        seen["straight"] = weights(run(folder, "straight", "fcos", LabelEncStep1Config()))
        seen["resumed"] = weights(interrupted(folder))
        dataset = read_coco(folder / "annotations/instances_val.json")
        seen["fp16"] = in_fp16(folder)
        seen["numbers"] = evaluate_detector(tiny_detector(seed=3), dataset, 2).numbers
        trained: list[tuple[MethodName, DetectorName]] = [  # step 2 begins with what step 1 leaves
            ("plain", "fasterrcnn"), ("sssd", "retinanet"), ("lgd", "fasterrcnn"),
            ("labelenc_step1", "fcos"), ("labelenc_step2", "fcos"),
        ]  # fmt: skip
        seen["lacking"] = [line for both in trained for line in without_boxes(folder, *both)]
        own = folder / f"written by {dist.get_rank()}"
        plain = build_method(tiny_detector(), PlainConfig(), SCHEDULE)
        train(plain, dataset, own, CONFIG, SCHEDULE, console=None)
        seen["wrote"] = own.exists()
        seen["ranks"] = gather(dist.get_rank())
        torch.save(seen, folder / f"rank{dist.get_rank()}.pt")
    for again in range(4):  # as a program of several trainings does
        time.sleep(0.3 * int(os.environ["RANK"]))
        with process_group("cpu"):
            assert from_first(lambda value=again: value) == again


if __name__ == "__main__":
    main(Path(sys.argv[1]))
