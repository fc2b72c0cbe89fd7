"""One training step of each method: `python -m bench.step`.

Plain, LGD in its published structure (dense masks, loops over levels, images and objects, instance
norm and mean squared error as separate operators), our LGD, our SSSD: forward, backward and
optimiser step of torchvision's three detectors on ResNet-50, 256 channels, two random images; stem,
first stage and batch norms are frozen, as in every recipe. "The head twice" is what every method
that teaches the head on K_e takes at least: K goes through the head again, and nothing else.
All of a row are timed in turn in one process; times are medians, memory is the peak above what the
process held before the step.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import statistics
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
import torchvision
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from bench import peers
from sssd.compare.cost import in_turn
from sssd.detectors import DetectorConfig, Maps, build_detector
from sssd.detectors.settings import DetectorName
from sssd.engine.device import name_of
from sssd.engine.settings import EngineConfig
from sssd.engine.step import TrainingStep
from sssd.fusion import Objects
from sssd.methods import (
    LabelGuidedConfig,
    LGDConfig,
    Method,
    MethodConfig,
    PlainConfig,
    RelationConfig,
    SSSDConfig,
    build_method,
)
from sssd.methods.distill import standardize
from sssd.schedules import ScheduleConfig

DETECTORS: tuple[DetectorName, ...] = ("fcos", "retinanet", "fasterrcnn")
CLASSES, BATCH = 80, 2
METHODS: dict[str, MethodConfig] = {
    "plain": PlainConfig(),
    "the head twice": SSSDConfig(),
    "LGD, published structure": LGDConfig(),
    "LGD": LGDConfig(),
    "SSSD, LGD's fusion and adapter": SSSDConfig(fusion=RelationConfig(), adapter="full"),
    "SSSD": SSSDConfig(),
    "SSSD, full adapter": SSSDConfig(adapter="full"),
    "SSSD, K_e every 2nd step": SSSDConfig(teacher_every=2),
}


def period_of(settings: MethodConfig) -> int:
    """Steps after which those of a method repeat."""
    return settings.teacher_every if isinstance(settings, LabelGuidedConfig) else 1


# ---- the head twice ------------------------------------------------------------------------------


class NoFusion(nn.Module):
    """K_e is K again."""

    def forward(self, maps: Maps, objects: Objects, image_size: tuple[int, int]) -> Maps:
        """The maps, as tensors of their own."""
        return [m.clone() for m in maps]


def head_twice(method: Method) -> AbstractContextManager[object]:
    """Neither fusion, adapter nor distance from now on."""
    part = method.distillation
    part.fusion, part.adapter, part.distance = NoFusion(), nn.Identity(), no_distances
    return nullcontext()


def no_distances(student: Maps, teacher: Maps) -> tuple[Tensor, Tensor]:
    """`SSSD.distances`, all zero."""
    nothing = student[0].new_zeros(1)
    return nothing[0], nothing


# ---- LGD as published ----------------------------------------------------------------------------


def published_distances(student: Maps, teacher: Maps) -> tuple[Tensor, Tensor]:
    """`LGD.distances` by instance norm and mean squared error."""
    flat = [torch.cat([m.flatten() for m in standardize(maps)]) for maps in (student, teacher)]
    distance = F.mse_loss(*flat)
    return distance, distance[None]


def as_published(method: Method) -> AbstractContextManager[object]:
    """While it lasts, LGD's fusion runs the loops."""
    method.distillation.distance = published_distances
    return patch.multiple(
        "sssd.fusion.objects", pool_boxes=peers.looped_pool, paint_boxes=peers.looped_paint
    )


CHANGES = {"the head twice": head_twice, "LGD, published structure": as_published}


# ---- the measurement -----------------------------------------------------------------------------


def scene(
    size: int, objects: int, batch: int = BATCH
) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Random images with boxes of log-normal size, median a thirteenth of the image."""
    generator = torch.Generator().manual_seed(objects)
    images = [torch.rand(3, size, size, generator=generator) for _ in range(batch)]
    targets = []
    for _ in range(batch):
        centre = torch.rand(objects, 2, generator=generator) * size
        extent = torch.exp(torch.randn(objects, 2, generator=generator) * 0.8) * size / 13
        corners = [(centre - extent / 2).clamp(min=0), (centre + extent / 2).clamp(max=size)]
        labels = torch.randint(0, CLASSES, (objects,), generator=generator)
        targets.append({"boxes": torch.cat(corners, dim=1), "labels": labels})
    return images, targets


def training_step(
    detector: DetectorName,
    name: str,
    size: int,
    objects: int,
    device: torch.device,
    channels_last: bool,
    batch: int = BATCH,
    bf16: bool = False,
) -> Callable[[], None]:
    """A step of a method: forward, backward and optimiser."""
    torch.manual_seed(0)
    schedule = ScheduleConfig(learning_rate=1e-5)
    settings = METHODS[name]
    with tempfile.NamedTemporaryFile(suffix=".pth") as weights:
        # Random, but weights: with them stem, first stage and batch norms are frozen.
        torch.save(torchvision.models.resnet50().state_dict(), weights.name)
        config = DetectorConfig(
            detector, "resnet50", weights=weights.name, min_size=(size,), max_size=size
        )
        method = build_method(build_detector(config, CLASSES), settings, schedule)
    method.watches_gradients = False  # as in every step that is not logged
    while_it_runs = CHANGES[name](method) if name in CHANGES else nullcontext()
    engine = EngineConfig(
        device=str(device),
        precision="bf16" if bf16 else "fp32",
        channels_last=channels_last,
        clip_value=None,
    )
    train = TrainingStep(method, engine, schedule)
    images, targets = scene(size, objects, batch)
    if device.type == "cuda":  # as the loader's are
        images = [image.pin_memory() for image in images]
    batches = itertools.repeat((images, targets))
    iterations = range(period_of(settings))

    def step() -> None:
        for iteration in iterations:
            with while_it_runs:
                train(batches, iteration)

    return step


def peak_mib(step: Callable[[], None], device: torch.device) -> float:
    """MiB that a step takes at its peak above what is held before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what earlier steps left free must not hide the peak
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = _status("VmRSS")
    step()
    return (_status("VmHWM") - before) / 2**10


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def measure(
    table: Table,
    detector: DetectorName,
    names: list[str],
    size: int,
    objects: int,
    rounds: int,
    device: torch.device,
    channels_last: bool,
) -> None:
    """Adds a row for each method."""
    steps = {
        name: training_step(detector, name, size, objects, device, channels_last) for name in names
    }
    peaks = {}
    for name, step in steps.items():
        step()  # the optimiser's state is made
        peaks[name] = peak_mib(step, device)
    timed = in_turn(steps, rounds, device)
    seconds = {name: statistics.median(values) for name, values in timed.items()}
    for name in names:
        own = seconds[name] / period_of(METHODS[name])
        table.add_row(
            *(detector, str(size), str(objects), name, f"{own * 1e3:.0f}"),
            *(f"{own / seconds['plain']:.2f}", f"{peaks[name]:.0f}"),
            f"{peaks[name] / peaks['plain']:.2f}",
        )
    table.add_section()


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--detectors", nargs="+", default=DETECTORS, choices=DETECTORS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[320], help="pixels a side")
    parser.add_argument("--objects", nargs="+", type=int, default=[10], help="boxes an image")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each")
    parser.add_argument("--channels-last", action="store_true", help="--engine.channels-last")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"torch {torch.__version__}, {name_of(device)}")
    table = Table()
    for column in ("detector", "pixels", "boxes", "method"):
        table.add_column(column)
    for column in ("ms", "x plain", "peak MiB", "x plain"):
        table.add_column(column, justify="right")
    names = ["plain", *(name for name in arguments.methods if name != "plain")]
    for detector in arguments.detectors:
        for size in arguments.sizes:
            for objects in arguments.objects:
                scale = size, objects, arguments.rounds
                measure(table, detector, names, *scale, device, arguments.channels_last)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
