"""The CUDA sources of the box operators, run on the CPU, as functions of tensors."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from sssd.ops.box_kernels import COMBINES, PROFILES, is_channels_last
from tests.kernels.building import DTYPES, host_module


def load_module() -> ModuleType:
    """Compiles and imports the test-only module."""
    return host_module("sssd_host_boxes", "kernels/boxes/cuda.cu", "tests/kernels/host_boxes.cpp")


def _objects(boxes: Tensor, index: Tensor, image_size: tuple[int, int]) -> dict[str, Any]:
    return {
        "boxes": boxes.data_ptr(),
        "image_index": index.data_ptr(),
        "f64": boxes.dtype == torch.float64,
        "i64": index.dtype == torch.int64,
        "count": len(boxes),
        "image_height": image_size[0],
        "image_width": image_size[1],
    }


def _levels(maps: list[Tensor]) -> list[dict[str, Any]]:
    return [
        {
            "map": x.data_ptr(),
            "height": x.shape[2],
            "width": x.shape[3],
            "channels_last": is_channels_last(x),
        }
        for x in maps
    ]


def _unwritten(
    batch: int, channels: int, shapes: list[tuple[int, int]], dtype: torch.dtype,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> list[Tensor]:  # fmt: skip
    """Maps full of NaN: what a kernel forgets to write shows."""
    return [
        torch.full((batch, channels, *shape), math.nan, dtype=dtype).contiguous(
            memory_format=memory_format
        )
        for shape in shapes
    ]


def pool(
    module: ModuleType, levels: list[Tensor], boxes: Tensor, index: Tensor,
    image_size: tuple[int, int], *, mean: bool = True,
) -> Tensor:  # fmt: skip
    """As `sssd.ops.pool_boxes`."""
    batch, channels = levels[0].shape[:2]
    pooled = torch.full((len(levels), len(boxes), channels), math.nan, dtype=levels[0].dtype)
    module.pool(
        _objects(boxes, index, image_size)
        | {"levels": _levels(levels), "pooled": pooled.data_ptr(), "batch": batch, "mean": mean}
        | {"dtype": DTYPES[pooled.dtype], "channels": channels}
    )
    return pooled


def paint(
    module: ModuleType, values: Tensor, boxes: Tensor, index: Tensor, image_size: tuple[int, int],
    shapes: list[tuple[int, int]], batch: int, *, mean: bool = False,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> list[Tensor]:  # fmt: skip
    """As `sssd.ops.paint_boxes`."""
    channels = values.shape[-1]
    maps = _unwritten(batch, channels, shapes, values.dtype, memory_format)
    module.paint(
        _objects(boxes, index, image_size)
        | {"levels": _levels(maps), "values": values.data_ptr(), "batch": batch, "mean": mean}
        | {"dtype": DTYPES[values.dtype], "channels": channels}
        | {"value_level_stride": values[0].numel() if values.dim() == 3 else 0}
    )
    return maps


def _drawing(
    boxes: Tensor, labels: Tensor, index: Tensor, image_size: tuple[int, int], maps: list[Tensor],
    classes: int, profile: str, combine: str, strength: Tensor | None,
) -> dict[str, Any]:  # fmt: skip
    dtype = maps[0].dtype
    return (
        _objects(boxes, index, image_size)
        | {"levels": _levels(maps), "labels": labels.data_ptr(), "assigned": 0}
        | {"strength": 0 if strength is None else strength.data_ptr(), "dtype": DTYPES[dtype]}
        | {"batch": maps[0].shape[0], "classes": classes, "min_overlap": 0.7}
        | {"profile": PROFILES.index(profile), "combine": COMBINES.index(combine)}
    )


def heatmap(
    module: ModuleType, boxes: Tensor, labels: Tensor, index: Tensor, image_size: tuple[int, int],
    shapes: list[tuple[int, int]], batch: int, classes: int, *, profile: str = "gaussian",
    combine: str = "max", strength: Tensor | None = None, dtype: torch.dtype = torch.float32,
) -> list[Tensor]:  # fmt: skip
    """As `sssd.ops.label_heatmap`."""
    maps = _unwritten(batch, classes, shapes, dtype)
    module.heatmap(
        _drawing(boxes, labels, index, image_size, maps, classes, profile, combine, strength)
    )
    return maps
