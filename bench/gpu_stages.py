"""The stages of bench/gpu.py, each called in a process of its own: `python -m bench.gpu_stages`."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.gpu import ROOT, Verdict, write_verdict
from bench.gpu_place import Failed, Place, Skipped

CASES = 10_000
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")  # of compute-sanitizer
OPERATORS = ("js_distance", "pool_boxes", "paint_boxes", "label_heatmap")


def backends(place: Place) -> list[str]:
    """Those that can run here."""
    from sssd.ops import dispatch

    if place.rehearse:
        return ["reference"] if dispatch.MISSING else ["cpu", "reference"]
    empty = torch.empty(1, device="cuda")
    found = []
    for backend in ("cuda", "triton"):
        try:
            dispatch.choose("bench.gpu", empty, backend)
        except ValueError as error:
            print(error, flush=True)
        else:
            found.append(backend)
    return found


def output_of(*command: str) -> str:
    """The last line that a program prints, or why there is none."""
    if shutil.which(command[0]) is None:
        return f"no {command[0]} on PATH"
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    said = (done.stdout.strip() or done.stderr.strip()).splitlines()
    return said[-1] if said else f"{command[0]} prints nothing"


def version_of(package: str) -> str:
    """Of a package, or that it is missing."""
    if importlib.util.find_spec(package) is None:
        return f"no {package}"
    return f"{package} {getattr(importlib.import_module(package), '__version__', '?')}"


# ---- where --------------------------------------------------------------------------------------


def where(place: Place) -> list[str]:
    """Device, versions, and `explain` of every operator."""
    from sssd.ops import dispatch, explain

    lines = []
    if not place.rehearse:
        chip = torch.cuda.get_device_properties(0)
        shared = getattr(chip, "shared_memory_per_block_optin", 0) >> 10
        lines += [
            f"{chip.name}, sm_{chip.major}{chip.minor}, {chip.multi_processor_count} "
            f"multiprocessors, {chip.total_memory / 2**30:.0f} GiB, L2 "
            f"{chip.L2_cache_size / 2**20:.0f} MiB, {shared} KiB of shared memory a block, "
            f"{'clusters' if chip.major >= 9 else 'no clusters'}",
            "driver " + output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv"),
        ]
        torch.ones(1, device="cuda").add_(1).item()
    lines += [
        f"Python {sys.version.split()[0]}, torch {torch.__version__} (CUDA {torch.version.cuda}), "
        f"{version_of('triton')}, {version_of('torchvision')}, {version_of('pytest')}",
        f"nvcc: {output_of('nvcc', '--version')}; ncu: {output_of('ncu', '--version')}; "
        f"compute-sanitizer: {output_of('compute-sanitizer', '--version')}",
        dispatch.MISSING or "the native library loads",
    ]
    tensor = [torch.empty(1, 1, 1, 1, device=place.device)]
    return lines + [explain(name, tensor) for name in OPERATORS]


# ---- build --------------------------------------------------------------------------------------


def build(place: Place) -> list[str]:
    """The library for this device, unless CUDAARCHS says another. Rehearsed: as it is."""
    command, chip = ["true"], ""
    environment = dict(os.environ)
    if not place.rehearse:
        if shutil.which("nvcc") is None and "CUDA_HOME" not in os.environ:
            raise Skipped("no nvcc on PATH and no CUDA_HOME: what is installed stays")
        major, minor = torch.cuda.get_device_capability()
        chip = f"{major}{minor}"
        environment.setdefault("CUDAARCHS", f"{chip}-real")
        command = [sys.executable, "setup.py", "build_ext"]
    begin = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    took = time.perf_counter() - begin
    if done.returncode:
        raise Failed(f"`{' '.join(command[1:])}` ended with status {done.returncode}")
    from sssd.ops import dispatch  # only now: it loads the library

    held = [] if dispatch.MISSING else torch.ops.sssd.cuda_architectures()
    place.check(
        chip in map(str, held),
        f"the library has machine code for {held}, and this is sm_{chip}: {dispatch.MISSING}",
    )
    return [f"{took:.0f} s on {os.cpu_count()} processors; machine code for {held}"]


# ---- correct ------------------------------------------------------------------------------------


def correct(place: Place, seed: int | None = None) -> list[str]:
    """The GPU tests in files of their own, then random cases; or the case of a seed alone."""
    from bench.gpu_cases import random_case

    if seed is not None:
        told = [random_case(seed, place.device, backend) for backend in backends(place)]
        return [f"seed {seed}: {told[0]}: right on {', '.join(backends(place))}"]
    lines = run_tests(place)
    cases, names = (8 if place.rehearse else CASES), backends(place)
    done = 0
    for seed in range(cases):
        if place.over():
            break
        backend = names[done % len(names)]
        print(f"seed {seed} on {backend}: ", end="", flush=True)
        try:
            random_case(seed, place.device, backend)
        except Exception as error:
            place.row("correct", what=f"seed {seed} on {backend}", state="FAIL")
            message = str(error).strip().splitlines()[:3]
            raise Failed(
                f"random case on {backend} is wrong: --stage correct --seed {seed}",
                *lines, f"{type(error).__name__}", *message,
            ) from error  # fmt: skip
        done += 1
    place.row("correct", what=f"{done} random cases on {', '.join(names)}", state="PASS")
    return [*lines, f"{done} of {cases} random cases against float64 on {', '.join(names)}"]


def run_tests(place: Place) -> list[str]:
    """The test files by pytest, without the repository's options, whose plugins may be missing."""
    if importlib.util.find_spec("pytest") is None:
        return ["no pytest: the tests of tests/ops were not run"]
    lines, failed = [], []
    files = ("test_divergence_gpu", "test_boxes_gpu")
    for file in ["../test_pairwise"] if place.rehearse else files:  # it imports no torch
        command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(ROOT)]
        command += ["--import-mode=importlib", "-p", "no:cacheprovider", "--noconftest"]
        command.append(f"tests/ops/{file}.py")
        try:
            done = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, check=False,
                timeout=place.left() / 2,
            )  # fmt: skip
            said, status = done.stdout, done.returncode
            print(said[-20000:], done.stderr[-2000:], flush=True)
        except subprocess.TimeoutExpired as error:
            said, status = f"stopped after {error.timeout:.0f} s", -1
        last = (said.strip().splitlines() or ["nothing printed"])[-1]
        place.row("correct", what=file, state="FAIL" if status else "PASS")
        lines.append(f"{file}: {last}")
        if status:
            failed.append(file)
    if failed:
        raise Failed(f"pytest failed in {', '.join(failed)}", *lines)
    return lines


# ---- sanitize -----------------------------------------------------------------------------------


def call(place: Place) -> list[str]:
    """A small call of every kernel: what `sanitize` watches, and a profiler may."""
    from bench.gpu_cases import small_calls

    count = 0
    for backend in backends(place)[:1]:
        for told in small_calls(place.device, backend):
            print(told, flush=True)
            count += 1
    if not place.rehearse:
        torch.cuda.synchronize()
    return [f"{count} calls"]


def sanitize(place: Place) -> list[str]:
    """All tools at the same time, each over a process that calls every kernel."""
    program = [sys.executable, "-W", "ignore", "-m", "bench.gpu_stages", "call"]
    if place.rehearse:
        call(place)
        program, prefix = ["echo", "ERROR SUMMARY: none rehearsed"], {"memcheck": []}
    else:
        sanitizer = shutil.which("compute-sanitizer")
        if sanitizer is None:
            raise Skipped("no compute-sanitizer on PATH: it comes with the CUDA toolkit")
        prefix = {tool: [sanitizer, "--tool", tool, "--error-exitcode", "9"] for tool in TOOLS}
    # Each allocation by itself: torch's own cache would hide what lies beyond a tensor.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    running = {}
    for tool, start in prefix.items():
        said_to = tempfile.TemporaryFile("w+")  # noqa: SIM115, read when the tool has ended
        running[tool] = said_to, subprocess.Popen(
            [*start, *program], cwd=ROOT, env=environment, stdout=said_to,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
    lines, failed = [], []
    for tool, (said_to, process) in running.items():
        try:
            status: int | None = process.wait(place.left())
        except subprocess.TimeoutExpired:  # bench.gpu ends it with this process
            status = None
        said_to.seek(0)
        said = said_to.read()
        print(f"-- {tool}\n{said[-200000:]}", flush=True)
        found = [line for line in said.splitlines() if "ERROR SUMMARY" in line or "hazards" in line]
        end = "no end in its time" if status is None else f"status {status}"
        lines.append(f"{tool}: {found[-1].strip('= ') if found else end}")
        if status == 9 or (status and not found):
            failed.append(tool)
    if failed:
        raise Failed(f"{', '.join(failed)}: see log.txt", *lines)
    return lines


# ---- train --------------------------------------------------------------------------------------


def train(place: Place) -> list[str]:
    """RetinaNet R-50 in bf16: images/s, peak memory, and where the host waits for the device."""
    from bench import step as bench_step
    from sssd.compare.cost import in_turn

    device = torch.device(place.device)
    size, batches = (64, (1,)) if place.rehearse else (800, (2, 8))
    names, rounds = ("plain", "SSSD", "LGD"), (1 if place.rehearse else 10)
    ours: list[str] = []
    theirs: list[str] = []
    for batch in batches:
        for name in names[1:2] if place.rehearse else names:
            if place.over():
                break
            step = bench_step.training_step(
                "retinanet", name, size, 10, device, channels_last=not place.rehearse,
                batch=batch, bf16=True,
            )  # fmt: skip
            seconds = in_turn({name: step}, rounds, device)[name]
            median = sorted(seconds)[len(seconds) // 2]
            peak, waited = waits(partial(bench_step.peak_mib, step, device), device)
            place.row(
                "train", batch=batch, method=name, ms=f"{1e3 * median:.1f}",
                images_per_second=f"{batch / median:.1f}", peak_mib=f"{peak:.0f}",
            )  # fmt: skip
            for file in waited:
                (ours if f"{os.sep}sssd{os.sep}" in file else theirs).append(f"{name}: {file}")
    place.check(not ours, "a step of ours waits for the device", sorted(set(ours)))
    return [
        "no line of sssd waits for the device in a step",
        *(f"torchvision's own wait, {one}" for one in sorted(set(theirs))),
    ]


def waits(step: Callable[[], Any], device: torch.device) -> tuple[Any, list[str]]:
    """What a step returns; file and line of each call in it for which the host waits."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            result = step()
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    found = [w for w in seen if "synchroniz" in str(w.message).lower()]
    return result, [f"{w.filename}:{w.lineno}" for w in found]


# ---- the process --------------------------------------------------------------------------------


def main() -> None:
    """Runs a stage, and writes what came of it."""
    from bench import gpu_choose, gpu_speed

    stages: dict[str, Callable[..., list[str]]] = {
        "where": where, "build": build, "correct": correct, "sanitize": sanitize, "call": call,
        "speed": gpu_speed.speed, "choose": gpu_choose.choose, "train": train,
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", nargs="+", choices=stages)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "gpu")
    parser.add_argument("--until", type=float, default=float("inf"), help="of time.monotonic")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--rehearse", action="store_true")
    given = parser.parse_args()
    place = Place(given.folder, given.rehearse, given.until)
    for name in given.stage:
        torch.manual_seed(0)
        begin = time.perf_counter()
        more = {"seed": given.seed} if name == "correct" else {}
        try:
            state, lines = "PASS", stages[name](place, **more)
        except Skipped as error:
            state, lines = "SKIP", [str(error)]
        except Failed as error:
            state, lines = "FAIL", [str(line) for line in error.args]
        print(f"-- {name}: {state}", *lines, sep="\n", flush=True)
        if name != "call":
            write_verdict(place.folder, name, Verdict(state, time.perf_counter() - begin, lines))


if __name__ == "__main__":
    main()
