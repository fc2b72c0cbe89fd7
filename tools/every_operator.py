"""Runs every operator, forward and backward, on the kernels of an installed sssd and torch alone.

Handed by tools/try_wheel.py to the Python that the wheel was installed for; ends with the names of
what ran, or an AssertionError.
"""

from __future__ import annotations

import sys

import torch

import sssd
from sssd import ops

WHERE = [torch.device("cpu")] + [torch.device("cuda")] * torch.cuda.is_available()
BOXES = torch.tensor([[4.0, 4.0, 30.0, 40.0], [10.0, 0.0, 60.0, 33.0]])
INDEX, LABELS, IMAGE = torch.tensor([0, 1]), torch.tensor([2, 0]), (64, 64)
SHAPES = [(8, 8), (4, 4)]


def calls(device: torch.device) -> dict[str, object]:
    """Each operator as a function of maps of two levels, on a device."""
    boxes, index, labels = BOXES.to(device), INDEX.to(device), LABELS.to(device)

    def pool(maps: list[torch.Tensor]) -> torch.Tensor:
        return ops.pool_boxes(maps, boxes, index, IMAGE)

    def heatmap(maps: list[torch.Tensor]) -> list[torch.Tensor]:
        return ops.label_heatmap(boxes, labels, index, IMAGE, SHAPES, 2, 3)

    teacher = [x.flip(0) for x in maps_on(device)]
    distances = ("feature_divergence", "js_distance", "js_divergence", "channel_kl", "pixel_kl")
    return {
        **{name: lambda maps, f=getattr(ops, name): f(maps, teacher) for name in distances},
        "pool_boxes": pool,
        "paint_boxes": lambda maps: ops.paint_boxes(pool(maps)[0], boxes, index, IMAGE, SHAPES, 2),
        "label_heatmap": heatmap,
    }


def maps_on(device: torch.device) -> list[torch.Tensor]:
    """The same maps on every device."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 16, *shape, generator=generator).to(device) for shape in SHAPES]


def run(call: object, device: torch.device) -> list[torch.Tensor]:
    """Results and gradients of one operator."""
    maps = [x.requires_grad_() for x in maps_on(device)]
    results = call(maps)  # type: ignore[operator]
    results = results if isinstance(results, list) else [results]
    if any(x.requires_grad for x in results):
        sum((x * x).sum() for x in results).backward()
    return [x.detach().cpu() for x in [*results, *(x.grad for x in maps if x.grad is not None)]]


def main() -> None:
    """Compare every operator on its kernels with the plain reference."""
    kernels = [n for n in ops.__all__ if n not in ("explain", "pack_boxes", "use_backend")]
    for device in WHERE:
        for name, call in calls(device).items():
            with ops.use_backend("cpu" if device.type == "cpu" else "cuda"):
                ours = run(call, device)
            with ops.use_backend("reference"):
                plain = run(call, device)
            for a, b in zip(ours, plain, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
            kernels.remove(name) if device is WHERE[-1] else None
    assert not kernels, f"not run: {kernels}"
    loaded = {"numpy", "torchvision", "PIL", "scipy", "tyro"} & {*sys.modules}
    print(f"every operator runs on {', '.join(map(str, WHERE))}: sssd of {sssd.__path__[0]}, torch "
          f"{torch.__version__}, Python {sys.version.split()[0]}; CUDA kernels: "
          f"{ops.dispatch.CUDA_MISSING or 'loaded'}; also imported: {sorted(loaded) or 'nothing'}")  # fmt: skip


if __name__ == "__main__":
    main()
