"""Times the Jensen-Shannon distance: ours, eager PyTorch, torch.compile of it, and a plain copy.

    python -m bench.divergence             the headline: 800 x 1344, axes, formats, fp32 and bf16
    python -m bench.divergence --full      every shape, batch, thread count, gradient and dtype
    python -m bench.divergence --accuracy  how far each form is from float64, down to JS = 1e-13

Forward and backward of sum over levels of sqrt(mean JS). The copy moves as many bytes as the fused
operator must: both maps read twice, the gradients written once. On a CUDA machine the CUDA and
Triton backends are timed with events.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

os.environ["KINETO_LOG_LEVEL"] = "6"  # the profiler, which measures memory: silent

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from sssd.engine.device import name_of
from sssd.ops import js_distance

SHAPES = {
    "800x1344": [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)],
    "320x320": [(40, 40), (20, 20), (10, 10), (5, 5), (3, 3)],
}
CHANNELS = 256
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class Case:
    """One line of the benchmark."""

    shape: str = "800x1344"
    batch: int = 1
    over: str = "channels"
    format: str = "contiguous"
    dtype: str = "fp32"
    teacher: str = "both"  # "detached": only the student takes a gradient
    threads: int = 2


@dataclass
class Result:
    """Milliseconds of one method, forward and backward together, and what follows from them."""

    method: str
    median: float
    low: float  # 20th percentile
    high: float  # 80th
    ratio: float  # to ours
    ns_per_element: float  # of a side: the same at every size, where time is linear
    gb_per_second: float  # of the minimal bytes
    extra_mib: float  # peak memory beyond the inputs


def textbook(student: list[Tensor], teacher: list[Tensor], over: str) -> Tensor:
    """The form in use: two log-softmaxes, their log-mean, two KL divergences."""
    dims = {"channels": 1, "cells": (2, 3)}[over]
    total = student[0].new_zeros(())
    for a, b in zip(student, teacher, strict=True):
        if over == "cells":
            a, b, dims = a.flatten(2), b.flatten(2), 2
        log_p, log_q = a.float().log_softmax(dims), b.float().log_softmax(dims)
        log_m = torch.logaddexp(log_p, log_q) - 0.6931471805599453
        kl = torch.nn.functional.kl_div
        each = kl(log_m, log_p, log_target=True, reduction="none").sum(dims)
        each = each + kl(log_m, log_q, log_target=True, reduction="none").sum(dims)
        total = total + (0.5 * each).mean().clamp_min(1e-12).sqrt()
    return total / len(student)


def make_maps(case: Case, device: str) -> tuple[list[Tensor], list[Tensor]]:
    """Student and teacher maps as a detector would hand them over."""
    generator = torch.Generator(device).manual_seed(0)

    def maps(grad: bool) -> Iterator[Tensor]:
        for height, width in SHAPES[case.shape]:
            x = torch.randn(case.batch, CHANNELS, height, width, generator=generator, device=device)
            x = x.to(DTYPES[case.dtype]).contiguous(memory_format=FORMATS[case.format])
            yield x.requires_grad_(grad)

    return list(maps(True)), list(maps(case.teacher == "both"))


def run_once(method: Callable[..., Tensor], student: list[Tensor], teacher: list[Tensor]) -> None:
    """Forward and backward."""
    inputs = [x for x in (*student, *teacher) if x.requires_grad]
    torch.autograd.grad(method(student, teacher), inputs)


def copy_of(total_bytes: int, device: str) -> Callable[[], None]:
    """A copy that reads and writes `total_bytes` together."""
    source = torch.zeros(total_bytes // 2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)

    return copy


def time_ms(call: Callable[[], None], device: str, seconds: float) -> list[float]:
    """Milliseconds of repeated calls, for about so many seconds, at least 5; of slow ones 3."""
    begin = time.perf_counter()
    call()
    slow = time.perf_counter() - begin > seconds
    if not slow:
        call()
    times: list[float] = []
    stop = time.perf_counter() + seconds
    fewest = 3 if slow else 5
    while len(times) < fewest or (time.perf_counter() < stop and len(times) < 200):
        if device == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
        else:
            begin = time.perf_counter()
            call()
            times.append(1e3 * (time.perf_counter() - begin))
    return times


def peak_extra_bytes(call: Callable[[], None], device: str) -> int:
    """Most memory held at once beyond what was there before."""
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    held = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def backends_of(device: str) -> tuple[str, ...]:
    """Those of ours that run there."""
    return ("cuda", "triton") if device == "cuda" else ("cpu",)


def bench(case: Case, device: str, compiled: bool, seconds: float) -> list[Result]:
    """All methods of one case, one after the other in one process."""
    torch.set_num_threads(case.threads)
    student, teacher = make_maps(case, device)
    elements = sum(x.numel() for x in student)
    side = elements * student[0].element_size()
    minimal = side * (6 if case.teacher == "both" else 5)
    eager = lambda a, b: textbook(a, b, case.over)  # noqa: E731
    methods: dict[str, Callable[..., Tensor]] = {
        f"ours ({name})": lambda a, b, name=name: js_distance(a, b, over=case.over, backend=name)
        for name in backends_of(device)
    }
    methods["eager"] = eager
    if compiled:
        torch._dynamo.reset()
        methods["torch.compile"] = torch.compile(eager, dynamic=False)
    methods["reference"] = lambda a, b: js_distance(a, b, over=case.over, backend="reference")
    calls: dict[str, Callable[[], None]] = {
        name: (lambda method=method: run_once(method, student, teacher))
        for name, method in methods.items()
    }
    calls["copy"] = copy_of(minimal, device)
    results: list[Result] = []
    for name, call in calls.items():
        times = time_ms(call, device, seconds)
        low, *_, high = statistics.quantiles(times, n=5)
        median = statistics.median(times)
        ratio = median / results[0].median if results else 1.0
        extra = 0 if name == "copy" else peak_extra_bytes(call, device)
        per_element, speed = 1e6 * median / elements, minimal / median / 1e6
        results.append(Result(name, median, low, high, ratio, per_element, speed, extra / 2**20))
    return results


def headline(threads: int) -> list[Case]:
    """What the README quotes."""
    cases = [
        Case(over=over, format=fmt, dtype=dtype, threads=threads)
        for over, fmt, dtype in itertools.product(("channels", "cells"), FORMATS, DTYPES)
    ]
    batches = [Case(batch=batch, threads=threads) for batch in (4, 10)]
    return [*cases, Case(teacher="detached", threads=threads), *batches]


def everything(threads: int) -> list[Case]:
    """Every combination."""
    counts = sorted({1, threads})
    return [
        Case(*values)
        for values in itertools.product(
            SHAPES, (1, 4), ("channels", "cells"), FORMATS, DTYPES, ("both", "detached"), counts
        )
    ]


def machine(device: str) -> str:
    """Processor and versions, for the record."""
    name = name_of(torch.device(device))
    if device == "cpu":
        name += f", {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} processors"
    return f"{name}; torch {torch.__version__}; Python {platform.python_version()}"


def main() -> None:
    """Parse, time, print, write CSV."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="every combination")
    parser.add_argument("--accuracy", action="store_true", help="the accuracy table instead")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--over", choices=("channels", "cells"), help="only this axis")
    parser.add_argument("--format", choices=FORMATS, help="only this memory format")
    parser.add_argument("--dtype", choices=DTYPES, help="only this dtype")
    parser.add_argument("--batch", type=int, help="only this number of images")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--seconds", type=float, default=2.0, help="of each method and case")
    parser.add_argument("--csv", type=Path, default=Path("runs/bench/divergence.csv"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    if options.accuracy:
        from bench.accuracy import print_accuracy

        print_accuracy()
        return
    cases = everything(options.threads) if options.full else headline(options.threads)
    for name in ("over", "format", "dtype", "batch"):
        wanted = getattr(options, name)
        cases = [c for c in cases if wanted in (None, getattr(c, name))]
    where = machine(options.device)
    print(where)
    options.csv.parent.mkdir(parents=True, exist_ok=True)
    with options.csv.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([f.name for f in (*fields(Case), *fields(Result))] + ["machine"])
        for case in cases:
            print("\n" + ", ".join(f"{k} {v}" for k, v in asdict(case).items()))
            print("  method            median    20%    80%  x ours  ns/elem    GB/s  extra MiB")
            for r in bench(case, options.device, not options.no_compile, options.seconds):
                print(
                    f"  {r.method:15} {r.median:8.2f} {r.low:6.2f} {r.high:6.2f} {r.ratio:7.2f} "
                    f"{r.ns_per_element:8.2f} {r.gb_per_second:7.1f} {r.extra_mib:10.2f}"
                )
                writer.writerow([*asdict(case).values(), *asdict(r).values(), where])
    print(f"\nwritten to {options.csv}")


if __name__ == "__main__":
    main()
