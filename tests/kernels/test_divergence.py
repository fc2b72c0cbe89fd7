"""The CUDA kernels of the divergence operator, run on the CPU, against the fp64 reference."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from sssd.ops.reference.divergence import feature_divergence
from tests.kernels.host_cuda import map_of, run, settings_of
from tests.ops.divergence_cases import (
    DEFAULTS,
    KERNEL_MEMBERS,
    OVER,
    PEAKED,
    PEAKED_ERRORS,
    SOFTMAX_ROWS,
    row_weights,
)
from tests.pairwise import pairwise

ODD = [(1, 3, 7, 11), (2, 40, 5, 7), (2, 5, 1, 1), (1, 1, 3, 5), (3, 33, 2, 9)]
EVEN = [(2, 64, 8, 8), (1, 256, 4, 8)]
LONG = [(1, 8, 80, 65), (2, 1300, 3, 4)]  # rows of several chunks, and in pieces
FORMATS = [torch.contiguous_format, torch.channels_last]
ROUNDING = {torch.float32: 3e-6, torch.bfloat16: 6e-3, torch.float16: 8e-4}


def maps(
    shapes: list[tuple[int, ...]],
    dtypes: tuple[torch.dtype, torch.dtype] = (torch.float32, torch.float32),
    memory_format: torch.memory_format = torch.contiguous_format,
    gap: float = 0.7,
    spread: float = 3.0,
) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(len(shapes))
    student = [spread * torch.randn(shape, generator=generator) for shape in shapes]
    teacher = [a + gap * torch.randn(a.shape, generator=generator) for a in student]
    return tuple(
        [x.to(dtype).contiguous(memory_format=memory_format) for x in side]
        for side, dtype in zip((student, teacher), dtypes, strict=True)
    )


def check(
    module: ModuleType,
    student: list[Tensor],
    teacher: list[Tensor],
    weights: list[Tensor] | None = None,
    least: float = 1e-7,
    loose: float = 0.0,
    **options: Any,
) -> None:
    """Values within 1e-5 of the fp64 reference, gradients within the rounding of their dtype.

    A gradient's norm may be off by `least` where nothing but cancellation is left of it, and by
    `loose` of itself.
    """
    wide = [[x.double().requires_grad_() for x in side] for side in (student, teacher)]
    meant = {key: options[key] for key in options if key != "play"}
    expected = feature_divergence(*wide, weights, **DEFAULTS | meant)
    grad_values = torch.linspace(-1, 2, len(student))
    (expected * grad_values).sum().backward()
    result = run(module, student, teacher, weights=weights, grad_values=grad_values, **options)
    torch.testing.assert_close(result.values.double(), expected.detach(), rtol=1e-5, atol=1e-7)
    chosen = DEFAULTS | meant | {"root": None, "elements": "sum", "rows": "none"}
    each = feature_divergence(*wide, None, **chosen).detach()
    torch.testing.assert_close(result.saved[0].double(), each, rtol=1e-5, atol=1e-6)
    for side, inputs in zip(result.grads, wide, strict=True):
        for level, (grad, x) in enumerate(zip(side, inputs, strict=True)):
            error = (grad.double() - x.grad).norm()
            kind = torch.finfo(grad.dtype)
            flushed = kind.smallest_normal * kind.eps * grad.numel() ** 0.5 / 2
            bound = max(ROUNDING[grad.dtype], loose) * x.grad.norm() + least + flushed
            assert error <= bound, f"level {level}: {error} > {bound}"


@pairwise(member=KERNEL_MEMBERS, over=OVER, memory_format=FORMATS)
def test_family(
    module: ModuleType, over: str, memory_format: torch.memory_format, member: str
) -> None:
    both = maps(ODD + EVEN, memory_format=memory_format)
    check(module, *both, over=over, **KERNEL_MEMBERS[member])


@pairwise(member=SOFTMAX_ROWS, gap=[1e-4, 1e-2, 1.0, 10.0], over=OVER[:2], memory_format=FORMATS)
def test_rows_of_one_large_mass(
    module: ModuleType, member: str, gap: float, over: str, memory_format: torch.memory_format
) -> None:
    both = maps(ODD + EVEN, memory_format=memory_format, gap=gap, spread=PEAKED)
    check(module, *both, loose=PEAKED_ERRORS[1], over=over, **SOFTMAX_ROWS[member])


@pairwise(
    dtypes=[
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float16),
        (torch.float16, torch.bfloat16),
        (torch.float32, torch.bfloat16),
        (torch.float16, torch.float32),
    ],
    over=OVER,
    memory_format=FORMATS,
)
def test_dtypes(
    module: ModuleType,
    over: str,
    memory_format: torch.memory_format,
    dtypes: tuple[torch.dtype, torch.dtype],
) -> None:
    check(module, *maps(ODD + EVEN, dtypes, memory_format), over=over)


@pairwise(member=["js", "standardize"], over=OVER, memory_format=FORMATS)
def test_long_rows(
    module: ModuleType, over: str, memory_format: torch.memory_format, member: str
) -> None:
    check(module, *maps(LONG, memory_format=memory_format), over=over, **KERNEL_MEMBERS[member])


@pairwise(cluster=[1, 2, 8], dtype=[torch.float32, torch.float16], memory_format=FORMATS)
def test_little_shared_memory(
    module: ModuleType, cluster: int, dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    """Without room to keep a long row it is kept by several blocks, or read again."""
    student, teacher = maps([*LONG, EVEN[0]], (dtype, dtype), memory_format)
    for over in OVER:
        roomy = run(module, student, teacher, over=over, root="level")
        small, other_way = (
            run(
                module, student, teacher, over=over, root="level",
                play={"shared": 32 << 10, "cluster": cluster, "reverse": way},
            )
            for way in (False, True)
        )  # fmt: skip
        # Parts of a row are added in another order: two roundings of float32 are seen.
        torch.testing.assert_close(small.values, roomy.values, rtol=4e-7, atol=0)
        torch.testing.assert_close(small.saved, roomy.saved, rtol=1e-6, atol=1e-6)
        assert torch.equal(small.saved, other_way.saved)


@pytest.mark.parametrize("member", KERNEL_MEMBERS)
def test_family_on_clusters(module: ModuleType, member: str) -> None:
    for memory_format in FORMATS:
        both = maps([(1, 24, 70, 65), (2, 24, 9, 11)], memory_format=memory_format)
        play = {"shared": 16 << 10}
        check(module, *both, over="cells", play=play, **KERNEL_MEMBERS[member])


@pytest.mark.parametrize("over", OVER)
def test_row_weights(module: ModuleType, over: str) -> None:
    student, teacher = maps(ODD + LONG)
    weights = row_weights(student, over)
    weights[2].zero_()  # a level without a row that counts
    check(module, student, teacher, weights, over=over, root="level")


def test_a_row_left_out_may_hold_nan(module: ModuleType) -> None:
    student, teacher = maps([(1, 8, 4, 4)])
    student[0][:, :, 1, 2] = math.nan
    weights = [torch.ones(1, 4, 4)]
    weights[0][0, 1, 2] = 0
    result = run(module, student, teacher, weights=weights, grad_values=torch.ones(1))
    assert run(module, student, teacher).values.isnan().all()
    student[0].nan_to_num_()
    expected = run(module, student, teacher, weights=weights, grad_values=torch.ones(1))
    assert result.values == expected.values > 0
    for found, meant in zip(result.all_grads(), expected.all_grads(), strict=True):
        assert torch.equal(found, meant)


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("memory_format", FORMATS)
def test_equal_maps_cost_nothing(
    module: ModuleType, over: str, memory_format: torch.memory_format
) -> None:
    for scale in (1.0, 1e4):
        student = [scale * x for x in maps(EVEN, memory_format=memory_format)[0]]
        teacher = [x.clone() for x in student]
        for root in (None, "level", "row"):
            result = run(module, student, teacher, over=over, root=root, grad_values=torch.ones(2))
            assert (result.values == 0).all()
            assert all((grad.abs() < 1e-6).all() for side in result.grads for grad in side)


def test_impossible_logits(module: ModuleType) -> None:
    """-inf on one side, on both, and a row with nothing else; one-hot rows."""
    low = -math.inf
    student = torch.tensor([[low, 1.0, 2.0, low], [low] * 4, [9e4, 0.0, 0.0, 0.0]]).mT
    teacher = torch.tensor([[0.5, low, 2.0, low], [1.0, 2.0, 3.0, 4.0], [0.0, 9e4, 0.0, 0.0]]).mT
    check(
        module, [student[None, :, :, None].contiguous()], [teacher[None, :, :, None].contiguous()]
    )
    check(  # infinitely far, which pulls at nothing
        module,
        [student[None, :, :, None].contiguous()],
        [teacher[None, :, :, None].contiguous()],
        **KERNEL_MEMBERS["kl"],
    )
    one_hot = run(
        module, [student[None, :, 2:, None].contiguous()], [teacher[None, :, 2:, None].contiguous()]
    )
    assert one_hot.values.item() == pytest.approx(math.log(2), rel=1e-6)


@pytest.mark.parametrize("gap", [1e-1, 1e-2, 1e-3, 1e-4])
def test_small_gaps_keep_their_relative_accuracy(module: ModuleType, gap: float) -> None:
    generator = torch.Generator().manual_seed(0)
    student = [torch.randn(1, 256, 8, 8, generator=generator)]
    teacher = [student[0] + gap * torch.randn(student[0].shape, generator=generator)]
    wide = [[x.double() for x in side] for side in (student, teacher)]
    expected = feature_divergence(*wide, None, **DEFAULTS)
    value = run(module, student, teacher).values
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("wanted", [(True, False), (False, True)])
def test_only_wanted_gradients_are_written(module: ModuleType, wanted: tuple[bool, bool]) -> None:
    student, teacher = maps(ODD)
    both = run(module, student, teacher, grad_values=torch.ones(len(ODD)))
    one = run(
        module, student, teacher, grad_values=torch.ones(len(ODD)), wanted=wanted,
        play={"counting": True},
    )  # fmt: skip
    assert [bool(side) for side in one.grads] == list(wanted)
    written = sum(4 * x.numel() for x in student)
    assert one.traffic[1]["store_bytes"] == written
    for kept, full in zip(one.grads, both.grads, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(kept, full, strict=False))


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("over", OVER)
def test_order_of_blocks_changes_no_bit(
    module: ModuleType, over: str, memory_format: torch.memory_format
) -> None:
    """Blocks depend on no other block of their launch, and sums are always in the same order."""
    student, teacher = maps(ODD + EVEN + LONG, memory_format=memory_format)
    grad_values = torch.ones(len(student))
    one, other = (
        run(module, student, teacher, over=over, grad_values=grad_values, play={"reverse": reverse})
        for reverse in (False, True)
    )
    assert torch.equal(one.values, other.values)
    assert torch.equal(one.saved, other.saved)
    for x, y in zip(one.all_grads(), other.all_grads(), strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_addresses_that_fit_no_vector(module: ModuleType, over: str, dtype: torch.dtype) -> None:
    student, teacher = maps(EVEN, (dtype, dtype))

    def shifted(x: Tensor) -> Tensor:
        return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)

    grad_values = torch.ones(2)
    moved = [[shifted(x) for x in side] for side in (student, teacher)]
    result = run(module, *moved, over=over, grad_values=grad_values)
    expected = run(module, student, teacher, over=over, grad_values=grad_values)
    torch.testing.assert_close(result.values, expected.values, rtol=1e-6, atol=0)
    for x, y in zip(result.all_grads(), expected.all_grads(), strict=True):
        torch.testing.assert_close(x, y)


def test_empty_levels_and_batches(module: ModuleType) -> None:
    shapes = [(0, 4, 3, 3), (2, 4, 0, 3), (1, 4, 3, 3), (2, 0, 3, 3)]
    student, teacher = maps(shapes)
    for over in OVER:
        values = run(module, student, teacher, over=over, grad_values=torch.ones(4)).values
        assert values[[0, 1, 3]].tolist() == [0.0, 0.0, 0.0]
        assert values[2] > 0


def test_more_than_two_to_the_31_elements(module: ModuleType) -> None:
    """Two images so far apart that an int32 offset would wrap; memory between is never touched."""
    apart, cells, channels = 2**31 + 64, 12, 8
    student, teacher = (torch.empty(apart + channels * cells, dtype=torch.float16) for _ in "ab")
    grads = torch.empty_like(student)
    near_student, near_teacher = maps([(2, channels, 3, 4)], (torch.float16, torch.float16))
    for far, near in ((student, near_student[0]), (teacher, near_teacher[0])):
        far[: channels * cells], far[apart:] = near[0].flatten(), near[1].flatten()
    expected = run(module, near_student, near_teacher, grad_values=torch.ones(1))
    level = {
        "student": student.data_ptr(), "teacher": teacher.data_ptr(),
        "grad_student": grads.data_ptr(), "grad_teacher": 0, "weights": 0,
        "outer_stride": apart, **map_of(near_student[0], "channels"),
    }  # fmt: skip
    call = ([level], 3, 3, settings_of())
    rows, planes, floats = module.sizes(*call)
    saved, workspace = torch.empty(planes, rows), torch.empty(floats)
    values, factors, ones = torch.empty(1), torch.empty(1), torch.ones(1)
    pointers = (x.data_ptr() for x in (saved, values, factors, workspace))
    module.forward(*call, *pointers)
    module.backward(*call, saved.data_ptr(), factors.data_ptr(), ones.data_ptr())
    assert torch.equal(values, expected.values)
    assert torch.equal(grads[apart:], expected.grads[0][0][1].flatten())
