"""The counts behind bench/roofline.py, on machine code whose counts are known by hand."""

from __future__ import annotations

import csv
from collections import Counter

import pytest

from bench import chips as gpus
from bench import roofline
from bench.machine_code import Instruction, Kernel, Loop

# A loop over chunks as nvcc writes one: 128-bit loads of fp32 or of bf16, the upper halves of which
# are masked, then a loop inside with a fused multiply-add and an exponential, then the jump back.
EXCERPT = """
0000 MOV R1, c[0x0][0x28]
0010 @P0 BRA 0x60
0020 LDG.E.128.CONSTANT R4, [R2.64]
0030 LDG.E.128.CONSTANT R8, [R2.64+0x10]
0040 IADD3 R2, R2, 0x20, RZ
0050 BRA 0xa0
0060 LDG.E.128.CONSTANT R4, [R2.64]
0070 SHFL.BFLY PT, R5, R5, 0x1, 0x1f
0080 LOP3.LUT R6, R4, 0xffff0000, RZ, 0xc0, !PT
0090 IMAD.U32 R7, R4, 0x10000, RZ
00a0 FFMA R9, R4, R5, R9
00b0 MUFU.EX2 R10, R9
00c0 @P1 BRA 0xa0
00d0 STS.128 [R3], R4
00e0 BRA.U UP2, 0x10
00f0 EXIT
0100 BRA 0x100
"""


@pytest.fixture
def kernel() -> Kernel:
    lines = [line.split(" ", 1) for line in EXCERPT.strip().splitlines()]
    code = []
    for address, text in lines:
        predicate, text = text.split(" ", 1) if text.startswith("@") else ("", text)
        opcode, _, operands = text.partition(" ")
        code.append(Instruction(int(address, 16), predicate.lstrip("@"), opcode, operands))
    return Kernel(code)


@pytest.fixture
def chunks(kernel: Kernel) -> Loop:
    (loop,) = kernel.loops  # the padding behind EXIT, which jumps to itself, is never reached
    return loop


def test_loops(kernel: Kernel, chunks: Loop) -> None:
    (inner,) = chunks.inner
    assert not inner.inner
    assert kernel.everything(inner) == Counter({"FFMA": 1, "MUFU.EX2": 1, "BRA": 1})
    assert "FFMA" not in kernel.everything(chunks)


def test_a_way_is_that_of_a_dtype(kernel: Kernel, chunks: Loop) -> None:
    single = kernel.way(chunks, {"load": 2, "keep": 1})
    assert single == Counter(
        {"BRA": 2, "BRA.U": 1, "LDG.E.128.CONSTANT": 2, "IADD3": 1, "STS.128": 1}
    )  # the first jump is passed, too
    half = kernel.way(chunks, {"load": 1, "shuffle": 1, "bf16": 1, "keep": 1})
    assert half["IMAD.U32"] == 1
    assert half["LDG.E.128.CONSTANT"] == 1
    assert kernel.way(chunks, {"load": 1, "shuffle": 1, "keep": 1}, free=["bf16"]) == half
    with pytest.raises(ValueError, match="no way"):
        kernel.way(chunks, {"load": 1, "keep": 1})


@pytest.mark.parametrize(
    ("opcode", "unit"),
    [("FFMA", "fma"), ("IMAD.MOV.U32", "imad"), ("FSETP.GT.AND", "alu"), ("MUFU.EX2", "mufu"),
     ("LDS.128", "lsu"), ("UIADD3", "other"), ("BRA", "other"), ("FMNMX", "alu"),
     ("SHFL.BFLY", "other")],
)  # fmt: skip
def test_units(opcode: str, unit: str) -> None:
    assert gpus.unit_of(opcode) == unit


def test_a_copy_is_bound_by_memory_and_arithmetic_by_issue() -> None:
    chip = gpus.CHIPS["H100"]
    copy = gpus.Count(Counter({"LDG.E.128.CONSTANT": 0.25, "STG.E.128": 0.25}), 8)
    found = gpus.predict(copy, chip)
    assert (found.bound, found.of_copy) == ("memory", 1)
    assert found.gb_per_second == pytest.approx(0.9 * 3350)
    busy = gpus.predict(gpus.Count(Counter({"FFMA": 128}), 8), chip)
    # 128 a clock and multiprocessor: one clock, shared out to 132 multiprocessors of 1.98 GHz.
    assert busy.picoseconds == pytest.approx(1e3 / (132 * 1.98))
    packed = gpus.predict(gpus.Count(Counter({"FFMA2": 64}), 8), chip)  # no more sums than that
    assert (packed.bound, packed.picoseconds) == ("fma", pytest.approx(busy.picoseconds))
    special = gpus.predict(gpus.Count(Counter({"MUFU.EX2": 20, "FADD": 100}), 8), chip)
    assert special.bound == "mufu"


def test_what_follows_takes_its_own_time() -> None:
    """Forward and backward are launches: a bound of one leaves nothing for the other to hide in."""
    chip = gpus.CHIPS["H100"]
    busy = gpus.Count(Counter({"FFMA": 128}), 4)
    idle = gpus.Count(Counter({"FFMA": 1}), 40)
    both = gpus.in_turn([gpus.predict(one, chip) for one in (busy, idle)])
    assert both.picoseconds == pytest.approx(
        sum(gpus.predict(one, chip).picoseconds for one in (busy, idle))
    )
    assert both.of_copy < 1


def test_the_table_says_what_it_is_and_has_every_chip() -> None:
    with roofline.TABLE.open() as file:
        assert file.readline().startswith("# computed, not measured")
        rows = list(csv.DictReader(file))
    assert {row["chip"] for row in rows} == set(gpus.CHIPS)
    whole = [row for row in rows if (row["operator"], row["part"]) == ("Js", "both")]
    assert len(whole) == len(gpus.CHIPS) * len(roofline.WAYS) * 2
    for row in whole:
        assert (row["goal"] == "reached") == (float(row["of_copy"]) >= gpus.GOAL)
