"""What binds each kernel on each GPU, from its machine code: computed, not measured.

    python -m bench.roofline              compiles the CUDA kernels and prints the headline
    python -m bench.roofline --write      and keeps every row in docs/results/roofline.csv

No GPU is needed, but nvcc, and the disassembler that Triton's wheel ships. How it is counted:

- An *element* is one pair, student and teacher, of the divergence; one number of a map read (pool)
  or written (paint, heatmap: under one object). Only loops over elements are counted, not what a
  block does once: an eighth to a quarter more in rows of 256.
- A thread of the CUDA divergence works on chunks of 8 elements (kernels/divergence/cuda_plan.h), so
  an instruction on a way through the loop over chunks counts an eighth. The way is that of a dtype
  and layout (bench/machine_code.py). What a second sweep recalls from shared memory is counted for
  the share of chunks that do not stay in registers. Of Triton's kernels the loop's instructions are
  divided by the elements that a thread has in it.
- The time of a unit is its instructions an element over what all multiprocessors can do; every
  instruction also takes one of four issue slots a cycle. Memory: the bytes that the kernel must
  move at 0.9 of the data sheet's bandwidth, which is what a copy reached on H100 and H200 (3.0 and
  4.3 TB/s). The largest of these is the prediction: all else is supposed hidden.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from bench.chips import CHIPS, GOAL, Count, Rates, in_turn, predict, share, shared_bytes
from bench.machine_code import Kernel, Loop

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs" / "results" / "roofline.csv"


# ---- the divergence on CUDA ---------------------------------------------------------------------

CHUNK = 8  # kElements
CONVERTS = ("bf16", "fp16", "narrow_bf16", "narrow_fp16")


class Way(NamedTuple):
    """A headline case, and the chunks that a row is for each of its threads.

    From the planner (cuda_plan.h) for 256 channels and 16,800 cells: 256 / lanes threads share a
    strided row (4 lanes fp32, 8 half); 32 a row of 256 channels; 512, or the blocks of a cluster
    of eight, one of cells. Without clusters a strided row of cells is read twice.
    """

    over: str
    format: str
    strided: bool
    single: int  # chunks, fp32
    half: int
    clustered: bool = False


WAYS = (
    Way("channels", "contiguous", True, 2, 4),
    Way("channels", "channels_last", False, 1, 1),
    Way("cells", "contiguous", False, 5, 5),
    Way("cells", "channels_last", True, 17, 17, clustered=True),
)
MEMBERS = {"Js": "SoftmaxStats", "Kl": "SoftmaxStats", "SoftmaxMse": "SoftmaxStats",
           "Affine": "Moments"}  # fmt: skip


def moves(name: str, dtype: str, strided: bool) -> dict[str, int]:
    """The marks of moving a chunk of both maps: load, store, keep or recall."""
    if name in ("keep", "recall"):  # of half precision half of the instructions are idle
        return {name: 4}
    marks = {name: 4 if dtype == "fp32" else 2}
    if dtype == "bf16":
        marks["bf16" if name == "load" else "narrow_bf16"] = CHUNK
    if dtype == "fp16":
        marks["fp16" if name == "load" else "narrow_fp16"] = 2 * CHUNK
    if dtype != "fp32" and strided:
        marks["shuffle"] = 4  # two words of either map go to the neighbour
    return marks


def both(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    """Marks of one and the other."""
    return dict(Counter(first) + Counter(second))


def sweeps(kernel: Kernel) -> tuple[Loop | None, Loop | None]:
    """The loops over chunks: the one for statistics, and the one for terms or gradients."""
    first = second = None
    for loop in kernel.every_loop():
        marks = kernel.marks(loop.own())
        if marks["load"] and (marks["recall"] or marks["store"]):
            second = loop
        elif marks["load"]:
            first = loop
    return first, second


def half_of(architecture: int) -> str:
    """The half precision that it computes the bounds for: Turing converts no bfloat16 itself."""
    return "fp16" if architecture < 80 else "bf16"


def sweep(kernel: Kernel, loop: Loop | None, marks: dict[str, int]) -> Counter[str]:
    """An element's instructions on a way through a loop over chunks."""
    assert loop, "the kernel has no such loop"
    # Where a compiler selects instead of branching, what converts a half stands on every way; of
    # one map or both it may be an instruction that tells nothing.
    free = [name for name in CONVERTS if name not in marks]
    for part in (1.0, 0.5):
        fewer = {m: int(n * part) if m in CONVERTS else n for m, n in marks.items()}
        with suppress(ValueError):
            return share(kernel.way(loop, fewer, free), CHUNK)
    moved = {m: n for m, n in marks.items() if m not in CONVERTS}
    return share(kernel.way(loop, moved, CONVERTS), CHUNK)


def forward_count(kernels: dict[str, Kernel], member: str, way: Way, dtype: str) -> Count:
    """Statistics, then terms of an element."""
    layout = "strided" if way.strided else "contiguous"
    size = 8 if dtype == "fp32" else 4  # bytes of a pair
    load = moves("load", dtype, way.strided)
    clustered = kernels.get(f"forward {member} {layout} clustered") if way.clustered else None
    if clustered and not sweeps(clustered)[1]:
        clustered = None  # an architecture without clusters has but its name
    kernel = clustered or kernels[f"forward {member} {layout}"]
    first, second = sweeps(kernel)
    if way.clustered and not clustered:
        statistics = kernels[f"statistics {MEMBERS[member]} {layout}"]
        code = sweep(statistics, sweeps(statistics)[0], load) + sweep(kernel, second, load)
        return Count(code, size, more=size)
    chunks = way.single if dtype == "fp32" else way.half
    kept = (chunks - 1) / chunks  # in shared memory; one chunk stays in registers
    keep, recall = (moves(name, dtype, way.strided) for name in ("keep", "recall"))
    stays = sweep(kernel, first, load) + sweep(kernel, second, {})
    goes = sweep(kernel, first, both(load, keep)) + sweep(kernel, second, recall)
    return Count(mix(goes, stays, kept), size)


def mix(some: Counter[str], others: Counter[str], part: float) -> Counter[str]:
    """`part` of the one, the rest of the other."""
    return Counter({o: part * some[o] + (1 - part) * others[o] for o in some | others})


def backward_count(kernels: dict[str, Kernel], member: str, way: Way, dtype: str) -> Count:
    """Both gradients of an element."""
    kernel = kernels[f"backward {member} {'strided' if way.strided else 'contiguous'}"]
    marks = both(moves("load", dtype, way.strided), moves("store", dtype, way.strided))
    code = sweep(kernel, sweeps(kernel)[1], marks)
    return Count(code, 16 if dtype == "fp32" else 8)


# ---- Triton, boxes ------------------------------------------------------------------------------


def triton_counts(architecture: int, dtype: str) -> Iterator[tuple[str, str, Count]]:
    """Layout, kernel and count of the Jensen-Shannon kernels, compiled ahead of time."""
    from tests.kernels.disassembly import listing
    from tests.kernels.test_triton import binary_of, compiled, divergence_kernels

    types, size = f"*{dtype}", 8 if dtype == "fp32" else 4
    for strided in (True, False):
        for kernel, constants in divergence_kernels(0, strided):
            folder = cache_folder("triton")
            code = compiled(kernel, types, constants, architecture)
            (machine,) = listing(binary_of(code, folder)).values()
            parsed = Kernel(machine)
            loop = busiest(parsed, ("LDG",))
            elements = constants["ROWS"] * constants["BLOCK"] / 128  # a thread, of 4 warps
            name = code.metadata.name.removesuffix("_kernel")
            moved = 2 * size if name == "backward" else size
            yield (
                ("strided" if strided else "contiguous"),
                name,
                Count(share(parsed.everything(loop), elements), moved),
            )


def busiest(kernel: Kernel, opcodes: tuple[str, ...]) -> Loop:
    """The loop whose own blocks have the most of some instructions, the smallest of equals."""

    def used(loop: Loop) -> tuple[int, int]:
        code = kernel.everything(loop)
        return sum(n for o, n in code.items() if o.startswith(opcodes)), -sum(code.values())

    return max(kernel.every_loop(), key=used)


BOXES = {"pool": ("LDG",), "paint": ("LDS",), "heatmap": ("MUFU.EX2",)}


def box_counts(kernels: dict[str, Kernel]) -> Iterator[tuple[str, str, Count]]:
    """Kernel, dtype and count of an element: see the head of this file."""
    for name, kernel in kernels.items():
        match = re.search(r"(pool|paint|heatmap)_kernelI.*?(Float32|BFloat16)E", name)
        if not match:
            continue
        kind, dtype = match[1], {"Float32": "fp32", "BFloat16": "bf16"}[match[2]]
        loop = busiest(kernel, BOXES[kind])
        code = kernel.everything(loop)
        elements = sum(
            n * (shared_bytes(o) // 4 or 1) for o, n in code.items() if o.startswith(BOXES[kind])
        )
        if kind == "paint":  # each number from shared memory is added to a cell; others are spans
            elements = sum(n for o, n in code.items() if o.startswith("FADD"))
        yield kind, dtype, Count(share(code, elements), 4 if dtype == "fp32" else 2)


# ---- the table ----------------------------------------------------------------------------------


def cache_folder(name: str) -> Path:
    """For binaries."""
    folder = ROOT / "build" / "roofline" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def compiled_kernels(source: str, architecture: int) -> dict[str, Kernel]:
    """By readable (divergence) or mangled (boxes) name, compiled once a state of the sources."""
    from tests.kernels.building import cached
    from tests.kernels.disassembly import listing
    from tests.kernels.registers import readable

    binary = cached(
        f"{source}.cubin",
        [["nvcc", "-std=c++17", "-O3", "-I.", "-cubin", f"-arch=sm_{architecture}",
          f"kernels/{source}/cuda.cu", "-o", f"{{out}}/{source}.cubin"]],
    )  # fmt: skip
    named = {name.split(" ")[-1]: code for name, code in listing(binary).items()}
    return {readable(name) or name: Kernel(code) for name, code in named.items()}


def rows(
    kernels_of: Callable[[str, int], dict[str, Kernel]], triton: bool
) -> Iterator[dict[str, object]]:
    """Every row: the CUDA divergence, Triton's, boxes, on every chip."""
    for architecture in sorted({chip.architecture for chip in CHIPS.values()}):
        kernels = kernels_of("divergence", architecture)
        for member in MEMBERS:
            for way in WAYS:
                for dtype in ("fp32", half_of(architecture)):
                    ahead = forward_count(kernels, member, way, dtype)
                    back = backward_count(kernels, member, way, dtype)
                    parts = {"forward": [ahead], "backward": [back], "both": [ahead, back]}
                    for part, counts in parts.items():
                        named = ("cuda", member, part, way.over, way.format, dtype)
                        yield from on_chips(architecture, named, counts)
        for kind, dtype, count in box_counts(kernels_of("boxes", architecture)):
            yield from on_chips(architecture, ("cuda", kind, "forward", "", "", dtype), [count])
        for dtype in ("fp32", half_of(architecture)) if triton else ():
            for layout, part, count in triton_counts(architecture, dtype):
                named = ("triton", "Js", part, layout, "", dtype)
                yield from on_chips(architecture, named, [count])


def on_chips(
    architecture: int, named: tuple[str, ...], counts: Sequence[Count]
) -> Iterator[dict[str, object]]:
    """A row of each chip of an architecture, of launches that follow each other."""
    units = sum((Counter(count.units()) for count in counts), Counter())
    keys = ("backend", "operator", "part", "over", "format", "dtype")
    for name, chip in CHIPS.items():
        if chip.architecture != architecture:
            continue
        found = in_turn([predict(count, chip) for count in counts])
        yield {
            "chip": name,
            **dict(zip(keys, named, strict=True)),
            **{unit: f"{units[unit]:.1f}" for unit in Rates._fields},
            "bytes": f"{found.bytes:g}", "bound": found.bound,
            "ps_per_element": f"{found.picoseconds:.2f}",
            "gb_per_second": f"{found.gb_per_second:.0f}",
            "of_copy": f"{found.of_copy:.2f}",
            "goal": "reached" if found.of_copy >= GOAL else "missed",
        }  # fmt: skip


def main() -> None:
    """Count, print the headline, keep the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help=f"keep {TABLE.relative_to(ROOT)}")
    parser.add_argument("--no-triton", action="store_true", help="the CUDA kernels alone")
    given = parser.parse_args()
    found = [*rows(compiled_kernels, not given.no_triton)]
    print("computed, not measured: forward and both gradients of the Jensen-Shannon distance")
    for row in found:
        if (row["operator"], row["part"]) == ("Js", "both"):
            print(
                f"{row['chip']:9} {row['over']:8} {row['format']:13} {row['dtype']}  "
                f"{row['issue']:>6} instructions, {row['mufu']:>4} special, bound {row['bound']} "
                f"{float(str(row['of_copy'])):5.0%} of a copy, {row['goal']}"
            )
    if given.write:
        with TABLE.open("w", newline="") as file:
            file.write("# computed, not measured: python -m bench.roofline --write\n")
            writer = csv.DictWriter(file, list(found[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(found)
        print(f"written to {TABLE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
