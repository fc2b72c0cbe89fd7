"""What a multiprocessor of each GPU does in a clock, and so how long counted work takes on it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

GOAL = 0.85  # of a copy
COPY = 0.9  # of the data sheet's bandwidth that a copy reaches


# ---- chips --------------------------------------------------------------------------------------


class Rates(NamedTuple):
    """Results a clock of one multiprocessor.

    `fma` is what float32 add, multiply, fma share with integer multiply-add, which has half of it
    where there are 128; `alu` compares, selects, integer adds, shifts, logic; `mufu` special
    functions and conversions; `lsu` loads and stores. A shuffle takes its 4 bytes of `shared`: 32
    results a clock, as the guide has it (16 on 7.5, whose shared memory is half as wide).
    """

    fma: int
    imad: int
    alu: int
    mufu: int
    lsu: int
    shared: int  # bytes
    issue: int = 128


# Looked up in November 2026 in stored copies of public pages; NVIDIA's own could not be fetched, so
# its table is as others quote it. "Guide": "Throughput of Native Arithmetic Instructions", of the
# CUDA C++ Programming Guide, since CUDA 13 of the Best Practices Guide (12.1.1). "Measured":
# github.com/ademeure/QuickRunCUDA, its audits of a B300 (sm_103, which differs in exponentials):
# there 3.94 of the four warps that can be issued a clock, too.
RATES = {
    75: Rates(64, 64, 64, 16, 16, 64),  # Guide, 7.x; lsu and shared not looked up
    80: Rates(64, 64, 64, 16, 32, 128),  # Guide, 8.0; lsu and shared not looked up
    89: Rates(128, 64, 64, 16, 16, 128),  # Guide, 8.9; lsu and shared not looked up
    90: Rates(128, 64, 64, 16, 32, 128),  # Guide, 9.0; shared, mufu: FlashAttention-4, as for 10.0
    # Guide of CUDA 13, 10.0: fma 128, int32 64 (OpenXLA, cuda_core_info_table.cc); minimum and
    # maximum of float32 128 (by Guide 13.4), which count as compares here. mufu, shared: as many as
    # 9.0, 16 and 128 (FlashAttention-4, together.ai/blog/flashattention-4). lsu: Cornell's course
    # on the B200 (cvw.cac.cornell.edu). Measured: 64 alu, 32 lsu, 128 fma, by FFMA2 no more.
    100: Rates(128, 64, 64, 16, 32, 128),
    # Guide 13.4, 12.0: fma 128, imad 64, shifts, logic, minimum of float32 64, conversions to half
    # precision 16, shuffles 32; integer adds 128, which count as logic here. shared: Chips and
    # Cheese on GB202. lsu as of Ada, not looked up.
    120: Rates(128, 64, 64, 16, 16, 128),
}


class Chip(NamedTuple):
    """A GPU: data sheet. The clock is the boost, at which 2 x fma x SMs gives its float32 rate."""

    architecture: int
    multiprocessors: int
    ghz: float
    gb_per_second: int
    source: str


CHIPS = {
    "H100": Chip(90, 132, 1.98, 3350, "H100 SXM5 data sheet, 67 TFLOP/s"),
    "H200": Chip(90, 132, 1.98, 4800, "H200 data sheet, 67 TFLOP/s"),
    "B200": Chip(100, 148, 1.965, 7700, "HGX B200 data sheet, an eighth of 600 TFLOP/s, 62 TB/s"),
    "A100": Chip(80, 108, 1.41, 2039, "A100 80 GB SXM data sheet, 19.5 TFLOP/s"),
    "L4": Chip(89, 58, 2.04, 300, "L4 data sheet, 30.3 TFLOP/s"),
    "RTX 4090": Chip(89, 128, 2.52, 1008, "Ada whitepaper, 82.6 TFLOP/s"),
    "RTX 5090": Chip(120, 170, 2.407, 1792, "RTX Blackwell whitepaper, 104.8 TFLOP/s"),
    "T4": Chip(75, 40, 1.59, 320, "T4 data sheet, 8.1 TFLOP/s"),
}


# ---- units --------------------------------------------------------------------------------------

PACKED = {"FFMA2", "FMUL2", "FADD2"}  # two of float32: one slot, the unit twice
FMA = {"FFMA", "FMUL", "FADD", *PACKED, "HFMA2", "HADD2", "HMUL2", "FSWZADD"}
MUFU = {"MUFU", "F2I", "I2F", "F2F", "I2FP", "FRND", "POPC", "FLO", "BREV"}
LSU = {"LDG", "STG", "LDS", "STS", "LD", "ST", "LDL", "STL", "LDC", "ATOMS", "ATOMG", "RED"}
OTHER = {"BRA", "BSSY", "BSYNC", "BAR", "EXIT", "NOP", "WARPSYNC", "YIELD", "CALL", "RET", "VOTE",
         "BREAK", "ERRBAR", "MEMBAR", "DEPBAR", "LDGDEPBAR", "ELECT", "CS2R", "S2R", "S2UR",
         "R2UR", "VOTEU", "SHFL"}  # fmt: skip


def unit_of(opcode: str) -> str:
    """Where an instruction runs: fma, imad, alu, mufu, lsu, or other, which takes but a slot."""
    base = opcode.split(".")[0]
    if base == "IMAD":
        return "imad"
    for unit, opcodes in (("fma", FMA), ("mufu", MUFU), ("lsu", LSU), ("other", OTHER)):
        if base in opcodes:
            return unit
    return "other" if base.startswith("U") else "alu"  # U...: the uniform datapath


def shared_bytes(opcode: str) -> int:
    """That a thread moves to or from shared memory by it; a shuffle goes the same way."""
    if not opcode.startswith(("LDS", "STS", "SHFL")):
        return 0
    width = re.search(r"\.(128|64|U16|U8)", opcode)
    return {"128": 16, "64": 8, "U16": 2, "U8": 1}[width[1]] if width else 4


class Count(NamedTuple):
    """Of one element."""

    code: Counter[str]  # opcodes, in fractions
    bytes: float  # of device memory, at least
    more: float = 0  # that this kernel moves beside them

    def units(self) -> dict[str, float]:
        """Instructions by unit, all of them as `issue`, and bytes of shared memory."""
        found = dict.fromkeys(Rates._fields, 0.0)
        for opcode, count in self.code.items():
            if (unit := unit_of(opcode)) in found:
                found[unit] += count * (2 if opcode.split(".")[0] in PACKED else 1)
            found["shared"] += count * shared_bytes(opcode)
            found["issue"] += count
        found["fma"] += found["imad"]  # they share it
        return found


def share(code: Counter[str], elements: float) -> Counter[str]:
    """Of one element, of instructions that are for several."""
    return Counter({opcode: count / elements for opcode, count in code.items()})


class Prediction(NamedTuple):
    """Of a kernel on a chip, for one element."""

    bound: str
    picoseconds: float
    memory: float  # picoseconds of a copy of the bytes
    bytes: float

    @property
    def of_copy(self) -> float:
        """Share of the speed of a copy of the same bytes."""
        return self.memory / self.picoseconds

    @property
    def gb_per_second(self) -> float:
        """Of the bytes."""
        return 1e3 * self.bytes / self.picoseconds


def predict(count: Count, chip: Chip) -> Prediction:
    """The largest of the units' times."""
    rates = RATES[chip.architecture]._asdict()
    times = {
        unit: 1e3 * used / (rates[unit] * chip.multiprocessors * chip.ghz)
        for unit, used in count.units().items()
    }
    rate = COPY * chip.gb_per_second / 1e3
    times["memory"] = (count.bytes + count.more) / rate
    bound = max(times, key=lambda unit: times[unit])
    return Prediction(bound, times[bound], count.bytes / rate, count.bytes)


def in_turn(parts: Sequence[Prediction]) -> Prediction:
    """Of launches that follow each other: their times add up, each with its own bound."""
    bounds = "+".join(dict.fromkeys(part.bound for part in parts))
    return Prediction(
        bounds,
        sum(part.picoseconds for part in parts),
        sum(part.memory for part in parts),
        sum(part.bytes for part in parts),
    )
