"""A run's folder as training leaves it, for the commands that use one."""

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from safetensors.torch import load_file, safe_open, save_file

from sssd.train import main as train
from tests.scenes import write_scenes

SETTINGS = [
    *("--detector.backbone", "resnet18", "--detector.weights", "None", "--detector.width", "64"),
    *("--detector.min-size", "64", "--detector.max-size", "64", "--method.name", "plain"),
    *("--schedule.iterations", "1", "--schedule.milestones", "1", "--schedule.warmup", "0"),
    *("--engine.batch-size", "2", "--engine.workers", "0", "--engine.ema-decay", "None"),
]


def make_run(folder: Path, *changes: str) -> Path:
    """Trains a step on the scenes in `folder`/data; gives the run's folder, `folder`/run.

    Its head is made bold, so that there are detections to look at.
    """
    data, run = folder / "data", folder / "run"
    train_json, val_json = write_scenes(data, "train"), write_scenes(data, "val", count=3)
    source = ["--data.train", str(train_json), "--data.val", str(val_json)]
    assert train(["small", *source, *SETTINGS, *changes, "--out", str(run)]) == 0
    _embolden(run / "model.safetensors")
    return run


def _embolden(path: Path) -> None:
    """Makes a head sure of itself, and FCOS see an object of three strides in every cell."""
    weights = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    for name, tensor in weights.items():
        if name.endswith("cls_logits.bias"):
            tensor += 5
        elif name.endswith("cls_logits.weight"):
            tensor *= 20
        elif name.endswith("cls_score.weight"):
            tensor[0], tensor[1:] = 0, tensor[1:].abs()  # the first is the background's
        elif name.endswith("bbox_reg.bias"):
            tensor.fill_(1.5)
    save_file(weights, path, metadata)


class InThisProcess(AbstractContextManager):
    """Runs what a pool of processes would, which takes them seconds to start."""

    def __init__(self, *settings: object) -> None:
        torch.set_num_threads(1)  # the command has taken all processors

    def __exit__(self, *error: object) -> None:
        pass

    def submit(self, call: Callable, *arguments: object) -> Future:
        future: Future = Future()
        try:
            future.set_result(call(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future
