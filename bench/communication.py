"""What the processes of a distributed run send: `python -m bench.communication`.

Counted from the parameters of each method, ResNet-50 with two frozen stages and 80 classes; nothing
is timed. The efficiency of more GPUs is computed from these counts and from assumptions that the
command line can change:

    exposed    = max(0, all-reduce - backward) + all-reduce of the last bucket
    efficiency = step / (step + exposed)
    all-reduce = 2 (N - 1) / N * bytes / bandwidth + 2 (N - 1) * latency    (a ring)

DistributedDataParallel sends gradients while the backward pass still runs, but for the last bucket.
Processes that wait for the one with the largest images are not in it.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
import tyro
from rich.console import Console
from rich.table import Table

from sssd.detectors import DetectorConfig, build_detector
from sssd.detectors.settings import DetectorName
from sssd.methods import (
    LabelEncStep1Config,
    LGDConfig,
    Method,
    MethodConfig,
    PlainConfig,
    RelationConfig,
    SSSDConfig,
    build_method,
)
from sssd.schedules import ScheduleConfig

CLASSES, FP32, MB = 80, 4, 1e6
DETECTORS: tuple[DetectorName, ...] = ("retinanet", "fcos", "fasterrcnn")
METHODS = {
    "plain": PlainConfig(),
    "LGD": LGDConfig(),
    "SSSD": SSSDConfig(),
    "SSSD, LGD's fusion and adapter": SSSDConfig(fusion=RelationConfig(), adapter="full"),
    "LabelEnc, step 1": LabelEncStep1Config(),
}
GPUS = (8, 16, 32, 64)


@dataclass(frozen=True)
class Assumptions:
    """What the efficiency is computed with."""

    step: float = 0.2
    """Seconds a GPU computes in a step of two images: detectron2's model zoo for RetinaNet R-50 on
    V100s. A faster GPU leaves less time to send in."""

    backward: float = 0.6
    """Share of the backward pass in a step."""

    bandwidth: tuple[float, ...] = (20.0, 10.0, 1.0)
    """GB/s that each GPU sends at: a 200 Gbit/s adapter for each GPU at 80 %, 100 Gbit/s, and
    10 Gbit/s."""

    latency: float = 10e-6
    """Seconds of each of a ring's 2 (N - 1) exchanges."""

    bucket: float = 25.0
    """MB of gradients that DistributedDataParallel sends at a time."""


def build(detector: DetectorName, config: MethodConfig, backbone: Path) -> Method:
    """A method around a detector that starts from pretrained weights."""
    built = build_detector(DetectorConfig(detector, weights=str(backbone)), CLASSES)
    return build_method(built, config, ScheduleConfig())


def bytes_of(method: Method) -> tuple[int, int]:
    """Bytes of the gradients that all processes average, and of the buffers the first one sends."""
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad) * FP32
    return trained, sum(b.numel() * b.element_size() for b in method.buffers())


def ring(gpus: int, size: float, bandwidth: float, latency: float) -> float:
    """Seconds of an all-reduce of some bytes."""
    return 2 * (gpus - 1) / gpus * size / (bandwidth * 1e9) + 2 * (gpus - 1) * latency


def efficiency(gpus: int, size: float, bandwidth: float, given: Assumptions) -> float:
    """Share of a step in which a GPU computes."""
    whole = ring(gpus, size, bandwidth, given.latency)
    last = ring(gpus, min(size, given.bucket * MB), bandwidth, given.latency)
    exposed = max(0.0, whole - given.backward * given.step) + last
    return given.step / (given.step + exposed)


def main(given: Assumptions) -> None:
    """Prints both tables."""
    console = Console(width=100)
    sent = Table(title="MB for each process and step, R-50, 80 classes, fp32 gradients")
    for column in ("detector", "method", "gradients", "of plain", "buffers", "sent by 8", "by 64"):
        sent.add_column(column, justify="left" if column in ("detector", "method") else "right")
    sizes = {}
    with tempfile.TemporaryDirectory() as folder:
        backbone = Path(folder) / "resnet50.pt"
        torch.save(torchvision.models.resnet50().state_dict(), backbone)
        for detector in DETECTORS:
            for name, config in METHODS.items():
                gradients, buffers = bytes_of(build(detector, config, backbone))
                sizes[detector, name] = gradients
                numbers = [gradients, buffers, *(2 * (n - 1) / n * gradients for n in (8, 64))]
                one, two, *rings = (f"{number / MB:.1f}" for number in numbers)
                ratio = f"{gradients / sizes[detector, 'plain']:.2f}"
                sent.add_row(detector, name, one, ratio, two, *rings)
            sent.add_section()
    console.print(sent)
    computed = Table(title=f"efficiency of RetinaNet, COMPUTED for a step of {given.step:g} s")
    computed.add_column("GB/s a GPU", justify="right")
    computed.add_column("method")
    for gpus in GPUS:
        computed.add_column(f"{gpus} GPUs", justify="right")
    for bandwidth in given.bandwidth:
        for name in ("plain", "SSSD", "SSSD, LGD's fusion and adapter"):
            size = sizes["retinanet", name]
            shares = [f"{efficiency(n, size, bandwidth, given):.1%}" for n in GPUS]
            computed.add_row(f"{bandwidth:g}", name, *shares)
        computed.add_section()
    console.print(computed)


if __name__ == "__main__":
    main(tyro.cli(Assumptions, description=__doc__))
