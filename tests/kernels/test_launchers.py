"""What the launchers ask of CUDA, and what they make of its answers."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

from bench.gpu_speed import GOAL_LAUNCHES
from tests.kernels import host_boxes, registers
from tests.kernels.host_cuda import run
from tests.kernels.test_divergence import FORMATS, maps
from tests.ops.divergence_cases import KERNEL_MEMBERS

SMALL = {"shared": 32 << 10, "chip": 90}  # so little that these rows need a cluster
CLUSTERED = {
    torch.contiguous_format: [(1, 4, 100, 130)],
    torch.channels_last: [(1, 24, 60, 65), (2, 24, 9, 11)],
}


def long_rows(module: ModuleType, form: torch.memory_format, **play: Any) -> torch.Tensor:
    """Saved planes of rows that need a cluster, or pieces that are read twice."""
    both = maps(CLUSTERED[form], memory_format=form)
    return run(module, *both, over="cells", play=SMALL | play).saved


@pytest.mark.parametrize("member", ["js", "kl", "softmax_mse", "standardize"])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_the_occupancy_is_asked_for_the_kernel_that_is_launched(
    module: ModuleType, memory_format: torch.memory_format, member: str
) -> None:
    both = maps(CLUSTERED[memory_format], memory_format=memory_format)
    run(module, *both, over="cells", play=SMALL, **KERNEL_MEMBERS[member])
    calls = module.calls()
    (launched,) = [call for call in calls if call[0] == "cudaLaunchKernelEx" and call[4] > 1]
    name, threads, shared = launched[1:4]
    assert registers.readable(name).endswith("clustered")
    asked = [call for call in calls if call[0] == "cudaOccupancyMaxPotentialClusterSize"]
    assert any(call[1:3] == (name, threads) and call[3] >= shared for call in asked), asked


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("refused", ["cudaOccupancyMaxPotentialClusterSize", "clusters"])
def test_without_clusters_where_they_are_refused(
    module: ModuleType, refused: str, form: torch.memory_format
) -> None:
    """The rows are read twice instead; no error is left; and nobody tries again."""
    expected = long_rows(module, form, cluster=1)
    device = 2 * ("clusters" in refused) + FORMATS.index(form)
    for where in (64, device, device):  # not remembered; for the first time; remembered
        assert torch.equal(long_rows(module, form, refused={refused}, device=where), expected)
        assert module.last_error() == ""
    assert all(call[4] == 1 for call in module.calls())
    long_rows(module, form)
    assert any(name == "cudaLaunchKernelEx" and size > 1 for name, *_, size in module.calls())


@pytest.mark.parametrize("form", FORMATS)
def test_without_clusters_where_the_code_is_ptx_for_a_chip_that_has_none(
    module: ModuleType, form: torch.memory_format
) -> None:
    """In such code the kernel for clusters is empty: it writes nothing, and leaves no error."""
    expected = long_rows(module, form, cluster=1)
    assert torch.equal(long_rows(module, form, ptx=80), expected)
    assert all(call[4] == 1 for call in module.calls())


@pytest.mark.parametrize("form", FORMATS)
def test_a_call_leaves_others_the_shared_memory_that_they_asked_for(
    module: ModuleType, form: torch.memory_format
) -> None:
    """Another thread may be about to launch the kernel with more; the emulator refuses less."""
    bytes_of = []
    for shape in [(1, 24, 100, 130), (1, 24, 80, 100)]:
        both = maps([shape], memory_format=form)
        run(module, *both, over="cells", play={"goes_on": bool(bytes_of)})
        launches = [call for call in module.calls() if call[0] == "cudaLaunchKernelEx"]
        bytes_of.append(max(call[3] for call in launches))
    assert bytes_of[0] > bytes_of[1] > 48 << 10


@pytest.mark.parametrize("wide", [0, 1])
def test_float64_is_refused(module: ModuleType, wide: int) -> None:
    """Public functions choose the reference; an exported program may still come here."""
    both = [*maps([(1, 8, 3, 4)])]
    both[wide] = [x.double() for x in both[wide]]
    with pytest.raises(RuntimeError, match="do not compute in float64"):
        run(module, *both)


@pytest.mark.parametrize("member", KERNEL_MEMBERS)
def test_a_call_is_at_most_three_launches(module: ModuleType, member: str) -> None:
    """Forward, its end and backward, as bench/gpu_speed.py demands; one more where rows are cut."""
    both = maps([(2, 24, 9, 11), (1, 24, 4, 5)], memory_format=torch.channels_last)
    run(module, *both, grad_values=torch.ones(2), **KERNEL_MEMBERS[member])
    assert [call[0] for call in module.calls()].count("cudaLaunchKernelEx") <= GOAL_LAUNCHES


@pytest.mark.parametrize(
    "function",
    ["cudaGetDevice", "cudaDeviceGetAttribute", "cudaFuncGetAttributes", "cudaFuncSetAttribute"],
)
def test_a_call_that_fails_is_reported_and_leaves_no_error(
    module: ModuleType, function: str
) -> None:
    play = {"chip": 80, "refused": {function}}
    with pytest.raises(RuntimeError, match=f"{function} fails on sm_80"):
        run(module, *maps([(1, 4, 100, 130)]), over="cells", play=play)
    assert module.last_error() == ""


@pytest.mark.parametrize("plan", ["cluster=2 threads=128", "rows=16", " tiles=64  backward=64 "])
@pytest.mark.parametrize("form", FORMATS)
def test_every_switch_of_the_plan_gives_the_same(
    module: ModuleType, form: torch.memory_format, plan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call() -> tuple[list[torch.Tensor], list[Any]]:
        both = maps(CLUSTERED[form], memory_format=form)
        result = run(module, *both, over="cells", play=SMALL, grad_values=torch.ones(len(both[0])))
        return [result.values, *result.all_grads()], module.calls()

    expected, usual = call()
    monkeypatch.setenv("SSSD_CUDA_PLAN", plan)
    found, calls = call()
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=2e-5, atol=1e-8)
    if "threads" in plan:  # calls tell threads and shared memory, not blocks
        assert calls != usual


@pytest.mark.parametrize("plan", ["rows=3", "row=32", "cluster=16", "threads", "tiles=64,rows=32"])
def test_a_plan_that_means_nothing_is_refused(
    module: ModuleType, plan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSSD_CUDA_PLAN", plan)
    with pytest.raises(
        RuntimeError, match=r"SSSD_CUDA_PLAN takes powers of two: cluster \(1 to 8\)"
    ):
        run(module, *maps([(1, 8, 3, 4)]))


def test_an_error_that_somebody_else_left_is_not_reported(
    module: ModuleType, boxes_module: ModuleType
) -> None:
    run(module, *maps([(1, 8, 3, 4)]), grad_values=torch.ones(1), play={"stale": True})
    assert "0 threads a block" in module.last_error()
    boxes_module.play(stale=True)
    paint(boxes_module)
    assert "0 threads a block" in boxes_module.last_error()


def paint(boxes: ModuleType) -> None:
    corners, index = torch.tensor([[0.0, 0.0, 9.0, 9.0]]), torch.zeros(1, dtype=torch.int64)
    host_boxes.paint(boxes, torch.ones(1, 4), corners, index, (16, 16), [(4, 4)], 1)


def test_a_refused_launch_of_a_box_kernel_is_reported(boxes_module: ModuleType) -> None:
    boxes_module.play(resources=lambda name: (32, 128))
    with pytest.raises(RuntimeError, match="256 threads of a kernel with launch bounds of 128"):
        paint(boxes_module)
    assert boxes_module.last_error() == ""
