"""The stage `speed` of bench/gpu.py: times with a cold L2, as CUDA graphs."""

from __future__ import annotations

import importlib.util
import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from bench import boxes as bench_boxes
from bench import divergence as bench_divergence
from bench import peers
from bench.divergence import CHANNELS, FORMATS, SHAPES, Case, backends_of
from bench.gpu_place import Place
from sssd.ops import js_distance, label_heatmap, paint_boxes, pool_boxes

GOAL_COPY, GOAL_PEER, GOAL_LAUNCHES = 0.85, 1.5, 3
Call = Callable[[], object]


# ---- a time -------------------------------------------------------------------------------------


def replayed(call: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
    """`call` once as a CUDA graph: its result, and a way to run it again."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):  # compiles, and fills the caches that a capture must not
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()
    return result, graph.replay


class Times(NamedTuple):
    """Milliseconds of one call."""

    median: float
    low: float  # 20th percentile
    high: float  # 80th
    graph: bool  # replayed as a CUDA graph
    launches: int  # kernels and copies on the device
    ours: int  # those of them that are this package's kernels


def times_of(calls: Sequence[Call], device: str, seconds: float) -> Times:
    """Of calls that do the same on inputs of their own, which together are larger than the L2."""

    def all_calls() -> None:
        for call in calls:
            call()

    kernels: list[str] = []
    graph, run = False, all_calls
    all_calls()
    if device == "cuda":
        kernels = kernels_of(calls[0])
        try:
            run = replayed(all_calls)[1]
            graph = True
        except RuntimeError as error:  # it waits for the device, or allocates outside torch
            print(f"no CUDA graph: {str(error).splitlines()[0]}", flush=True)
            torch.cuda.synchronize()
    each = [x / len(calls) for x in bench_divergence.time_ms(run, device, seconds)]
    low, *_, high = statistics.quantiles(each, n=5)
    ours = sum("sssd" in name for name in kernels)
    return Times(statistics.median(each), low, high, graph, len(kernels), ours)


def kernels_of(call: Call) -> list[str]:
    """Names of the kernels and copies of a call, by torch's profiler."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        call()
        torch.cuda.synchronize()
    on_device = torch.autograd.DeviceType.CUDA
    return [event.name for event in profiler.events() if event.device_type == on_device]


def rotations(each_bytes: int, device: str) -> int:
    """Copies of an input that twice fill the L2, at most 16."""
    if device != "cuda":
        return 2
    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    return min(16, max(2, math.ceil(2 * l2 / each_bytes)))


def cold_maps(case: Case, device: str) -> list[Any]:
    """Maps of a case, so many times that together they are larger than the L2."""
    return [
        bench_divergence.make_maps(case, device)
        for _ in range(rotations(2 * side_bytes(case), device))
    ]


def side_bytes(case: Case) -> int:
    """Bytes of the student's maps, as of the teacher's."""
    cells = sum(h * w for h, w in SHAPES[case.shape])
    return case.batch * CHANNELS * cells * (2 if case.dtype == "bf16" else 4)


# ---- what is timed ------------------------------------------------------------------------------


def compiled(function: Callable[..., Tensor], device: str) -> Callable[..., Tensor]:
    """By torch.compile at its best on a GPU, which takes half a minute a case."""
    torch._dynamo.reset()
    if device != "cuda":
        return torch.compile(function, dynamic=False, backend="eager")
    return torch.compile(function, dynamic=False, mode="max-autotune-no-cudagraphs")


def liger(student: list[Tensor], teacher: list[Tensor], over: str) -> Tensor:
    """Liger's JSD of 2-D log-probabilities, a level at a time; it has the student's gradient."""
    from liger_kernel.ops.jsd import LigerJSDFunction

    total = student[0].new_zeros((), dtype=torch.float32)
    for a, b in zip(student, teacher, strict=True):
        rows = [x.permute(0, 2, 3, 1) if over == "channels" else x for x in (a, b)]
        width = a.shape[1] if over == "channels" else a.shape[2] * a.shape[3]
        p, q = (x.reshape(-1, width).float().log_softmax(1) for x in rows)
        total = total + LigerJSDFunction.apply(p, q, None, 0.5, -100)[0].sqrt()
    return total / len(student)


def divergence_methods(over: str, device: str) -> dict[str, Callable[..., Tensor]]:
    """By name: ours first, then the peers."""
    methods: dict[str, Callable[..., Tensor]] = {
        f"ours ({backend})": partial(js_distance, over=over, backend=backend)
        for backend in backends_of(device)
    }
    eager = partial(bench_divergence.textbook, over=over)
    methods |= {"eager": eager, "torch.compile": compiled(eager, device)}
    if device == "cuda" and importlib.util.find_spec("liger_kernel"):
        methods["Liger"] = partial(liger, over=over)
    return methods


def divergence_cases(rehearse: bool) -> list[Case]:
    """Both axes, formats, dtypes; batch 2 first, which is what training here uses."""
    if rehearse:
        return [Case("320x320", 1, "channels", "channels_last", "bf16")]
    return [
        Case("800x1344", batch, over, fmt, dtype)
        for batch, over, fmt, dtype in itertools.product(
            (2, 1, 8), ("channels", "cells"), FORMATS, ("bf16", "fp32")
        )
    ]


def time_divergence(place: Place, cases: list[Case], names: Sequence[str]) -> Iterator[str]:
    """Writes the rows of the methods that start with one of `names`; yields what misses a goal."""
    for case in cases:
        side, sets = side_bytes(case), cold_maps(case, place.device)
        wanted = {
            name: method
            for name, method in divergence_methods(case.over, place.device).items()
            if name.startswith(tuple(names))
        }
        copies = [bench_divergence.copy_of(6 * side, place.device) for _ in sets[:2]]
        copy = times_of(copies, place.device, place.seconds).median
        write_row(
            place, "divergence", case, "copy", 6 * side, copy, Times(copy, copy, copy, True, 1, 0)
        )
        for name, method in wanted.items():
            if place.over():
                return
            calls = [partial(bench_divergence.run_once, method, *maps) for maps in sets]
            try:
                times = times_of(calls, place.device, place.seconds)
            except Exception as error:
                print(f"{name} of {case}: {error!r}", flush=True)
                if name.startswith("ours"):
                    yield f"{name} of {case} raised {type(error).__name__}: see the log"
                continue
            write_row(place, "divergence", case, name, 6 * side, copy, times)
            share = copy / times.median
            if name == "ours (cuda)" and (share < GOAL_COPY or times.ours > GOAL_LAUNCHES):
                yield (
                    f"{case.over}, {case.format}, {case.dtype}, batch {case.batch}: "
                    f"{share:.0%} of a copy, {times.ours} launches"
                )


def write_row(
    place: Place, operator: str, case: Case, method: str, total: int, copy: float, times: Times
) -> None:
    """One row of speed.csv."""
    place.row(
        "speed", operator=operator, batch=case.batch, over=case.over, format=case.format,
        dtype=case.dtype, method=method, ms=f"{times.median:.4f}", low=f"{times.low:.4f}",
        high=f"{times.high:.4f}", gb_per_second=f"{total / times.median / 1e6:.0f}",
        of_copy=f"{copy / times.median:.3f}", launches=times.launches, graph=times.graph,
    )  # fmt: skip


def box_calls(
    kind: str, count: int, fmt: torch.memory_format, dtype: torch.dtype, device: str, tiny: bool
) -> tuple[dict[str, Call], int]:
    """Pool or paint, forward and backward, by method; and the bytes of the maps."""
    boxes, _, index = (x.to(device) for x in bench_boxes.scene(count))
    channels = 8 if tiny else CHANNELS
    shapes = bench_boxes.SHAPES[2:] if tiny else bench_boxes.SHAPES
    levels = [
        torch.randn(bench_boxes.BATCH, channels, *shape, device=device)
        .to(dtype).contiguous(memory_format=fmt).requires_grad_()
        for shape in shapes
    ]  # fmt: skip
    values = torch.randn(len(shapes), count, channels, device=device).to(dtype).requires_grad_()
    size = bench_boxes.IMAGE_SIZE
    ways: dict[str, Callable[..., Any]]
    if kind == "pool":
        ways = {f"ours ({b})": partial(pool_boxes, backend=b) for b in backends_of(device)}
        ways["vectorised"] = peers.vectorised_pool
        inputs, grads, where = levels, [torch.randn_like(values)], (levels, boxes, index, size)
    else:
        ways = {f"ours ({b})": partial(paint_boxes, backend=b) for b in backends_of(device)}
        ways["vectorised"] = peers.vectorised_paint
        ways = {name: partial(way, memory_format=fmt) for name, way in ways.items()}
        inputs, grads = [values], [torch.randn_like(x) for x in levels]
        where = (values, boxes, index, size, shapes, bench_boxes.BATCH)
    calls: dict[str, Call] = {
        name: bench_boxes.forward_backward(partial(way, *where), inputs, grads)
        for name, way in ways.items()
    }
    calls["zeros"] = lambda: [torch.zeros_like(x) for x in levels]
    return calls, sum(x.numel() * x.element_size() for x in levels)


def heatmap_calls(count: int, device: str) -> tuple[dict[str, Call], int]:
    """Forward, CenterNet's map of 80 classes; and its bytes."""
    scene = [x.to(device) for x in bench_boxes.scene(count, bench_boxes.HEATMAP_SIZE)]
    size, shape = bench_boxes.HEATMAP_SIZE, bench_boxes.HEATMAP_SHAPE
    where = (*scene, size, [shape], bench_boxes.BATCH, bench_boxes.CLASSES)
    calls: dict[str, Call] = {
        f"ours ({b})": partial(label_heatmap, *where, profile="gaussian", backend=b)
        for b in backends_of(device)
    }
    maps = (bench_boxes.BATCH, bench_boxes.CLASSES, *shape)
    return calls | {"zeros": partial(torch.zeros, *maps, device=device)}, 4 * math.prod(maps)


def time_boxes(place: Place) -> None:
    """Rows of pool, paint and heatmap."""
    counts = (20,) if place.rehearse else (20, 100)
    dtypes = {"fp32": torch.float32} if place.rehearse else bench_divergence.DTYPES
    for kind, count, (fmt, layout), (dtype, as_dtype) in itertools.product(
        ("pool", "paint"), counts, FORMATS.items(), dtypes.items()
    ):
        make = partial(box_calls, kind, count, layout, as_dtype, place.device, place.rehearse)
        case = Case(batch=bench_boxes.BATCH, over=f"{count} objects", format=fmt, dtype=dtype)
        time_all(place, kind, case, make)
    case = Case(batch=bench_boxes.BATCH, over="20 objects")
    time_all(place, "heatmap", case, partial(heatmap_calls, 20, place.device))


def time_all(
    place: Place, kind: str, case: Case, make: Callable[[], tuple[dict[str, Call], int]]
) -> None:
    """A row of each, beside a write of the maps ("zeros" in the place of a copy).

    Args:
        place: where the rows go.
        kind: the operator.
        case: for the row.
        make: the calls by name, on new inputs, and the bytes of the maps.
    """
    first, total = make()
    sets = [first, *(make()[0] for _ in range(rotations(total, place.device) - 1))]
    zeros = times_of([calls["zeros"] for calls in sets], place.device, place.seconds).median
    for name in first:
        if place.over():
            return
        times = times_of([calls[name] for calls in sets], place.device, place.seconds)
        write_row(place, kind, case, name, total, zeros, times)


def speed(place: Place) -> list[str]:
    """Ours, eager and a copy in every case; boxes; then, until time is up, what is compiled."""
    cases = divergence_cases(place.rehearse)
    short = [*time_divergence(place, cases, ("ours", "eager"))]
    time_boxes(place)
    few = [c for c in cases if c.batch == cases[0].batch]
    short += time_divergence(place, few, ("torch.compile", "Liger"))
    rows = [r for r in place.rows("speed") if r["operator"] == "divergence"]
    for case in cases:
        found = {r["method"]: float(r["ms"]) for r in rows if is_of(r, case)}
        ours = found.pop("ours (cuda)", None)
        theirs = {n: ms for n, ms in found.items() if n != "copy" and not n.startswith("ours")}
        if ours and theirs and min(theirs.values()) < GOAL_PEER * ours:
            peer = min(theirs, key=lambda name: theirs[name])
            short.append(
                f"{case.over}, {case.format}, {case.dtype}, batch {case.batch}: "
                f"{theirs[peer] / ours:.2f}x faster than {peer}"
            )
    goal = f"{GOAL_COPY:.0%} of a copy, {GOAL_PEER}x the fastest peer, {GOAL_LAUNCHES} launches"
    if place.rehearse:
        return ["rehearsed: times on the CPU are held to no goal"]
    place.check(not short, f"{len(short)} rows miss the goal ({goal})", short)
    return [f"every row of the CUDA kernels reaches the goal: {goal}"]


def is_of(row: dict[str, str], case: Case) -> bool:
    """Whether a row of speed.csv is of the case."""
    named = (row["batch"], row["over"], row["format"], row["dtype"])
    return named == (str(case.batch), case.over, case.format, case.dtype)
