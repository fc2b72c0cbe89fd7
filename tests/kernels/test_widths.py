"""The kernels on widths that fit nothing, on every chip that the emulator plays.

Each case is a width, a layout, dtypes, a member and a chip, drawn with a seed: a few here, and
thousands by a larger `count`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.kernels import host_boxes
from tests.kernels.test_boxes import DTYPES as BOX_DTYPES
from tests.kernels.test_boxes import IMAGE_SIZE
from tests.kernels.test_boxes import objects as scattered
from tests.kernels.test_divergence import FORMATS, ROUNDING, check, maps
from tests.ops import box_accuracy as accuracy
from tests.ops.divergence_cases import KERNEL_MEMBERS, OVER

# Of the stages of EfficientNet, MobileNet and ResNet.
STAGES = [
    16, 24, 32, 40, 48, 64, 72, 80, 88, 96, 112, 120, 160, 192, 240, 320, 480, 672, 960, 1280,
    1536, 2048,
]  # fmt: skip
WIDTHS = [*range(1, 131), *STAGES]
SIZES = [(70, 65), (20, 20), (13, 21), (7, 7), (5, 4), (2, 9), (1, 1)]
CHIPS = [75, 80, 86, 90, 120]
DTYPES = [*((dtype, dtype) for dtype in ROUNDING), (torch.float32, torch.bfloat16)]
# Widths whose rows were read past the last one by a vector that no address fits.
MISALIGNED = [
    *(("cells", torch.channels_last, (1, width, 70, 65), 75) for width in (24, 48, 80, 112)),
    *(("cells", torch.channels_last, (1, width, 70, 65), 86) for width in (40, 72, 88)),
    *(("cells", torch.channels_last, (1, 36, 70, 65), chip) for chip in (80, 90, 120)),
    *(("channels", torch.contiguous_format, (1, 2048, 5, 4), chip) for chip in (75, 86, 120)),
]


def shapes(draw: random.Random, most: int) -> list[tuple[int, int, int, int]]:
    """One to three levels of one width, of at most so many elements each."""
    width = draw.choice(WIDTHS)
    batch = draw.choice([1, 1, 2, 3])
    sizes = [size for size in SIZES if batch * width * size[0] * size[1] <= most]
    return [(batch, width, *draw.choice(sizes or SIZES[-1:])) for _ in range(draw.randint(1, 3))]


def cases(count: int, seed: int, most: int = 20_000) -> Iterator[dict[str, Any]]:
    draw = random.Random(seed)
    for _ in range(count):
        yield {
            "shapes": shapes(draw, most),
            "dtypes": draw.choice(DTYPES),
            "memory_format": draw.choice(FORMATS),
            "over": draw.choice(OVER),
            "play": {
                "chip": draw.choice(CHIPS),
                # Without much shared memory small rows are cut and clustered too.
                "shared": draw.choice([0, 0, 16 << 10, 32 << 10]),
                "reverse": draw.random() < 0.5,
            },
            "member": draw.choice([*KERNEL_MEMBERS]),
        }


def run_case(module: ModuleType, case: dict[str, Any]) -> None:
    options = dict(case)
    given = (options.pop("shapes"), options.pop("dtypes"), options.pop("memory_format"))
    member = options.pop("member")
    options |= KERNEL_MEMBERS[member]
    check(module, *maps(*given), least=2e-5, **options)  # rows of two elements


@pytest.mark.parametrize(("over", "memory_format", "shape", "chip"), MISALIGNED, ids=str)
def test_no_vector_is_loaded_beside_the_last_row(
    module: ModuleType, over: str, memory_format: torch.memory_format, shape: Any, chip: int
) -> None:
    both = maps([shape], memory_format=memory_format)
    check(module, *both, over=over, play={"chip": chip})


def test_widths(module: ModuleType) -> None:
    for case in cases(60, seed=0, most=6_000):
        try:
            run_case(module, case)
        except Exception as error:
            error.add_note(str(case))
            raise


def box_cases(count: int, seed: int) -> Iterator[dict[str, Any]]:
    draw = random.Random(seed)
    for _ in range(count):
        yield {
            "shapes": [
                (draw.choice([*range(1, 20), 31, 33, 64]), draw.choice([*range(1, 40), 65]))
                for _ in range(draw.randint(1, 3))
            ],
            "channels": draw.choice([*range(1, 131), *STAGES[:14]]),
            "dtype": draw.choice(BOX_DTYPES),
            "form": draw.choice(FORMATS),
            "objects": draw.choice([0, 1, 5, 40]),
            "chip": draw.choice(CHIPS),
        }


def run_boxes(
    module: ModuleType, shapes: list[tuple[int, int]], channels: int, dtype: torch.dtype,
    form: torch.memory_format, objects: int, chip: int,
) -> None:  # fmt: skip
    """Each box kernel against the float64 reference."""
    generator = torch.Generator().manual_seed(channels)
    boxes, index = scattered(objects, 2)
    labels = torch.arange(objects) % 3
    where, drawn = (boxes, index, IMAGE_SIZE), (boxes, labels, index, IMAGE_SIZE, shapes, 2, 3)
    levels = [
        torch.randn(2, channels, *shape, generator=generator)
        .to(dtype)
        .contiguous(memory_format=form)
        for shape in shapes
    ]
    values = torch.rand(objects, channels, generator=generator).to(dtype)
    module.play(chip=chip)
    accuracy.check_pool(host_boxes.pool(module, levels, *where), levels, *where)
    painted = host_boxes.paint(module, values, *where, shapes, 2, memory_format=form)
    accuracy.check_paint(painted, values, *where)
    heat = host_boxes.heatmap(module, *drawn, dtype=dtype)
    accuracy.check_heatmap(heat, *drawn, profile="gaussian", combine="max")


def test_box_kernels(boxes_module: ModuleType) -> None:
    for case in box_cases(12, seed=0):
        try:
            run_boxes(boxes_module, **case)
        except Exception as error:
            error.add_note(str(case))
            raise
