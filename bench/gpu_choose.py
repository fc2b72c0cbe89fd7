"""The stage `choose` of bench/gpu.py: the switches that were set blind, timed."""

from __future__ import annotations

import importlib.util
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from bench import divergence as bench_divergence
from bench.divergence import FORMATS, Case
from bench.gpu_place import Place
from bench.gpu_speed import backends_of, cold_maps, divergence_cases, times_of
from sssd.ops import js_distance

VARIABLE = "SSSD_CUDA_PLAN"  # kernels/divergence/cuda_plan.h
SWITCHES = {
    "cluster": (8, 4, 2, 1), "threads": (256, 128), "rows": (64, 32, 16),
    "tiles": (512, 256, 1024), "backward": (512, 256, 1024),
}  # fmt: skip
TRITON_TILES = {
    True: [(64, 8), (32, 16), (128, 4), (64, 16)],
    False: [(2, 256), (4, 256), (1, 512)],
}
LEAST_GAIN = 0.02  # of the time: below it the defaults stay


def choose(place: Place) -> list[str]:
    """One switch after the other, the best of each kept: of the CUDA plan, then Triton's tiles."""
    cases = divergence_cases(True)
    if not place.rehearse:
        cases = [
            Case(batch=2, over=over, format=fmt, dtype="bf16")
            for over, fmt in itertools.product(("channels", "cells"), FORMATS)
        ]
    inputs = {case: cold_maps(case, place.device) for case in cases}

    def milliseconds(backend: str, case: Case) -> float:
        method = partial(js_distance, over=case.over, backend=backend)
        calls = [partial(bench_divergence.run_once, method, *maps) for maps in inputs[case]]
        return times_of(calls, place.device, place.seconds / 4).median

    def total(backend: str, some: Sequence[Case]) -> float:
        return sum(milliseconds(backend, case) for case in some)

    first = backends_of(place.device)[0]
    best: dict[str, int] = {}
    before = least = total(first, cases)
    try:
        for switch, values in SWITCHES.items():
            for value in values[1:]:
                if place.over():
                    break
                plan = best | {switch: value}
                os.environ[VARIABLE] = " ".join(f"{k}={v}" for k, v in plan.items())
                now = total(first, cases)
                place.row("choose", backend=first, switches=os.environ[VARIABLE],
                          ms=f"{now:.4f}", default_ms=f"{before:.4f}")  # fmt: skip
                if now < (1 - LEAST_GAIN) * least:
                    best, least = plan, now
    finally:
        os.environ.pop(VARIABLE, None)
    lines = []
    plan_line = " ".join(f"{k}={v}" for k, v in best.items())
    (place.folder / "plan.txt").write_text(plan_line + "\n")
    if best:
        lines.append(f"`export {VARIABLE}='{plan_line}'` takes {least / before:.0%} of the time")
    else:
        lines.append(f"no switch gains {LEAST_GAIN:.0%}: the defaults stay")
    if place.device == "cuda" and importlib.util.find_spec("triton"):
        lines += choose_tiles(place, cases, total)
    return lines


def choose_tiles(
    place: Place, cases: list[Case], total: Callable[[str, Sequence[Case]], float]
) -> Iterator[str]:
    """Triton's tiles, those for strided rows and for contiguous ones apart."""
    from sssd.ops.triton import divergence

    for strided, tiles in TRITON_TILES.items():
        # Rows are neighbours in memory where what is reduced is not.
        mine = [
            c for c in cases if ((c.over == "channels") == (c.format == "contiguous")) == strided
        ]
        usual, found = divergence.TILES[strided], {}
        for tile in tiles:
            if place.over():
                break
            divergence.TILES[strided] = tile
            found[tile] = total("triton", mine)
            place.row("choose", backend="triton", switches=f"strided={strided} tile={tile}",
                      ms=f"{found[tile]:.4f}", default_ms=f"{found[tiles[0]]:.4f}")  # fmt: skip
        divergence.TILES[strided] = usual
        if found:
            yield f"Triton, strided={strided}: tile {min(found, key=lambda t: found[t])} is fastest"
