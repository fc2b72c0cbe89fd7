"""Runs every operator, forward and backward, on the kernels of an installed sssd and torch alone.

Handed by tools/try_wheel.py to the Python that the wheel was installed for; ends with the names of
what ran, or an AssertionError.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor

import sssd
from sssd import ops

Call = Callable[[list[Tensor]], Tensor | list[Tensor]]
WHERE = [torch.device("cpu")] + [torch.device("cuda")] * torch.cuda.is_available()
BOXES = torch.tensor([[4.0, 4.0, 30.0, 40.0], [10.0, 0.0, 60.0, 33.0]])
INDEX, LABELS, IMAGE = torch.tensor([0, 1]), torch.tensor([2, 0]), (64, 64)
SHAPES = [(8, 8), (4, 4)]


def calls(device: torch.device) -> dict[str, Call]:
    """Each operator as a function of maps of two levels, on a device."""
    boxes, index, labels = BOXES.to(device), INDEX.to(device), LABELS.to(device)

    teacher = [x.flip(0) for x in maps_on(device)]

    def distance(name: str) -> Callable[[list[Tensor]], Tensor]:
        return lambda maps: getattr(ops, name)(maps, teacher)

    def pool(maps: list[Tensor]) -> Tensor:
        return ops.pool_boxes(maps, boxes, index, IMAGE)

    distances = ("feature_divergence", "js_distance", "js_divergence")
    return {
        **{name: distance(name) for name in distances},
        "pool_boxes": pool,
        "paint_boxes": lambda maps: ops.paint_boxes(pool(maps)[0], boxes, index, IMAGE, SHAPES, 2),
        "label_heatmap": lambda _: ops.label_heatmap(boxes, labels, index, IMAGE, SHAPES, 2, 3),
    }


def maps_on(device: torch.device) -> list[Tensor]:
    """The same maps on every device."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 16, *shape, generator=generator).to(device) for shape in SHAPES]


def run(call: Call, device: torch.device) -> list[Tensor]:
    """Results and gradients of one operator."""
    maps = [x.requires_grad_() for x in maps_on(device)]
    results = call(maps)
    results = results if isinstance(results, list) else [results]
    if any(x.requires_grad for x in results):
        sum((x * x).sum() for x in results).backward()
    return [x.detach().cpu() for x in [*results, *(x.grad for x in maps if x.grad is not None)]]


def main() -> None:
    """Compare every operator on its kernels with the plain reference."""
    operators = {*ops.__all__} - {"explain", "pack_boxes", "use_backend"}
    for device in WHERE:
        assert calls(device).keys() == operators
        for call in calls(device).values():
            with ops.use_backend("cpu" if device.type == "cpu" else "cuda"):
                ours = run(call, device)
            with ops.use_backend("reference"):
                plain = run(call, device)
            for a, b in zip(ours, plain, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    loaded = sorted({"numpy", "torchvision", "PIL", "scipy", "tyro"} & {*sys.modules})
    print(f"every operator runs on {', '.join(map(str, WHERE))}: sssd of {sssd.__path__[0]}")
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}")
    print(f"CUDA kernels: {ops.dispatch.CUDA_MISSING or 'loaded'}")
    print(f"also imported: {', '.join(loaded) or 'nothing'}")


if __name__ == "__main__":
    main()
