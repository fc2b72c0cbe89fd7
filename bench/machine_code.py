"""Loops of a kernel's machine code, and the instructions of a way through one of them.

The kernels choose dtype and layout at run time, so a loop has branches of which a call takes one
side. A *way* through a loop's body is found by what it must do, such as four 128-bit loads: of all
ways that do, the one with the fewest instructions. Loops inside the body are counted by themselves.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

# What the instructions of a way are told apart by, first match: a pattern of opcode and operands.
MARKS = {
    "load": r"LDG\.E\.128\.CONSTANT",  # of a map, 16 bytes
    "other_load": r"LDG",
    "store": r"STG\.E\.128",
    "other_store": r"STG",
    "keep": r"STS(\.U)?\.128",
    "recall": r"LDS(\.U)?\.128",
    "shuffle": r"SHFL",
    "bf16": r"LOP3.*0xffff0000",  # the upper of two bfloat16 becomes a float
    "fp16": r"HADD2\.F32",
    "narrow_bf16": r"F2FP\.BF16",
    "narrow_fp16": r"F2FP\.(?!BF16)|F2F\.F16",
}
_MARK = re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in MARKS.items()))


class Instruction(NamedTuple):
    """One of a kernel."""

    address: int
    predicate: str  # "" if it always runs
    opcode: str
    operands: str

    @property
    def target(self) -> int | None:
        """Where it jumps to. Not the side of a shuffle whose threads have parted: they have not."""
        if not self.opcode.startswith("BRA") or ".DIV" in self.opcode:
            return None
        match = re.search(r"0x([0-9a-f]+)", self.operands)
        return int(match[1], 16) if match else None

    @property
    def mark(self) -> str | None:
        """Its key of `MARKS`."""
        match = _MARK.match(f"{self.opcode} {self.operands}")
        return match.lastgroup if match else None


@dataclass
class Block:
    """Instructions without a jump between them."""

    code: list[Instruction]
    next: list[int] = field(default_factory=list)  # blocks

    def marks(self) -> Counter[str]:
        """How often each mark stands in it."""
        return Counter(i.mark for i in self.code if i.mark)


@dataclass
class Loop:
    """A natural loop: its first block, all its blocks, and the loops directly inside."""

    head: int
    blocks: set[int]
    inner: list[Loop] = field(default_factory=list)

    def own(self) -> set[int]:
        """Blocks of no loop inside."""
        return self.blocks.difference(*(loop.blocks for loop in self.inner))


class Kernel:
    """Blocks and loops of a kernel."""

    def __init__(self, code: Sequence[Instruction]) -> None:
        starts = {code[0].address} | {i.target for i in code if i.target is not None}
        starts |= {
            b.address
            for a, b in itertools.pairwise(code)
            if a.opcode.startswith(("BRA", "EXIT", "RET"))
        }
        self.blocks: list[Block] = []
        for instruction in code:
            if instruction.address in starts:
                self.blocks.append(Block([]))
            self.blocks[-1].code.append(instruction)
        at = {block.code[0].address: n for n, block in enumerate(self.blocks)}
        for n, block in enumerate(self.blocks):
            last = block.code[-1]
            ends = last.opcode.startswith(("EXIT", "RET")) or last.target is not None
            if last.target is not None:
                block.next.append(at[last.target])
            # BRA.U names its condition among the operands.
            goes_on = not ends or last.predicate or last.opcode.startswith("BRA.U")
            if goes_on and n + 1 < len(self.blocks):
                block.next.append(n + 1)
        self.loops = self._loops()

    def _reached(self) -> set[int]:
        seen, todo = {0}, [0]
        while todo:
            new = set(self.blocks[todo.pop()].next) - seen
            seen |= new
            todo += new
        return seen

    def _loops(self) -> list[Loop]:
        """The outermost, each with those inside. A jump backwards closes one."""
        reached = self._reached()
        before: dict[int, list[int]] = {n: [] for n in reached}
        for n in reached:
            for after in self.blocks[n].next:
                before[after].append(n)
        found: dict[int, set[int]] = {}
        for n in reached:
            for head in self.blocks[n].next:
                if head > n:
                    continue
                body, todo = {head, n}, [n] if n != head else []
                while todo:
                    for b in before[todo.pop()]:
                        if b not in body:
                            body.add(b)
                            todo.append(b)
                found[head] = found.get(head, set()) | body
        outermost: list[Loop] = []
        for head, body in sorted(found.items(), key=lambda one: -len(one[1])):
            siblings = outermost
            while outer := next((x for x in siblings if head in x.blocks), None):
                siblings = outer.inner
            siblings.append(Loop(head, body))
        return outermost

    def every_loop(self, among: Sequence[Loop] | None = None) -> Iterator[Loop]:
        """All of them, the outer before those inside."""
        for loop in self.loops if among is None else among:
            yield loop
            yield from self.every_loop(loop.inner)

    def marks(self, blocks: set[int]) -> Counter[str]:
        """How often each mark stands in some blocks."""
        return sum((self.blocks[n].marks() for n in blocks), Counter())

    def everything(self, loop: Loop) -> Counter[str]:
        """All opcodes of a loop but those of loops inside."""
        return Counter(i.opcode for n in loop.own() for i in self.blocks[n].code)

    def way(self, loop: Loop, wanted: Mapping[str, int], free: Sequence[str] = ()) -> Counter[str]:
        """Opcodes of the shortest way through the body on which each mark stands so often.

        Args:
            loop: whose body it is; loops inside are passed and not counted.
            wanted: of `MARKS`; one that is left out stands nowhere on the way.
            free: marks that may stand there as often as they like.

        Raises:
            ValueError: there is no such way.
        """
        inside = {n: inner.head for inner in loop.inner for n in inner.blocks}
        names = [name for name in MARKS if name not in free]
        target = tuple(wanted.get(name, 0) for name in names)
        # By block and marks so far: the fewest instructions, and the blocks they are in.
        reached: dict[int, dict[tuple[int, ...], tuple[int, tuple[int, ...]]]] = {
            loop.head: {(0,) * len(names): (0, ())}
        }
        ends: dict[tuple[int, ...], tuple[int, tuple[int, ...]]] = {}
        for n in self._in_order(loop, inside):
            counted = n not in inside
            marks = self.blocks[n].marks() if counted else Counter[str]()
            for so_far, (length, path) in reached.pop(n, {}).items():
                now = tuple(x + marks[name] for x, name in zip(so_far, names, strict=True))
                if any(x > most for x, most in zip(now, target, strict=True)):
                    continue
                longer = length + len(self.blocks[n].code) * counted
                here = (longer, (*path, n) if counted else path)
                for after in self.blocks[n].next:
                    if after == loop.head:
                        _keep(ends, now, here)
                    elif after in loop.blocks and not (n in inside and after <= n):
                        _keep(reached.setdefault(after, {}), now, here)
        if target not in ends:
            raise ValueError(f"no way through the loop at {loop.head} has {dict(wanted)}")
        return Counter(i.opcode for n in ends[target][1] for i in self.blocks[n].code)

    def _in_order(self, loop: Loop, inside: Mapping[int, int]) -> list[int]:
        """Blocks of a loop so that each comes after those that jump to it, but for its start."""
        order: list[int] = []
        seen: set[int] = set()

        def visit(n: int) -> None:
            if n in seen or n not in loop.blocks:
                return
            seen.add(n)
            for after in self.blocks[n].next:
                if after > n:
                    visit(after)
            order.append(n)

        visit(loop.head)
        return order[::-1]


def _keep(
    among: dict[tuple[int, ...], tuple[int, tuple[int, ...]]],
    marks: tuple[int, ...],
    way: tuple[int, tuple[int, ...]],
) -> None:
    if marks not in among or way[0] < among[marks][0]:
        among[marks] = way
