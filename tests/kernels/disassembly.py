"""What is in a CUDA binary, by the disassembler that Triton's wheel ships."""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import torch

from bench.machine_code import Instruction
from sssd.ops.dispatch import CUDA_LIBRARY_PATH, CUDA_MISSING
from tests.kernels.building import BUILD


def _cuobjdump(*arguments: str | Path) -> str:
    triton = pytest.importorskip("triton")
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return subprocess.run(
        [str(tool), *map(str, arguments)], capture_output=True, text=True, check=True
    ).stdout


def recorded(kind: str = "elf") -> set[str]:
    """The architectures that the built library says it has machine code (`elf`) or PTX for."""
    if CUDA_MISSING:
        return set()
    library = torch.ops.sssd
    return {
        f"sm_{n}" for n in (library.cuda_ptx if kind == "ptx" else library.cuda_architectures)()
    }


def embedded(binary: Path, kind: str) -> set[str]:
    """The architectures of a binary's machine code (`elf`) or PTX (`ptx`)."""
    return set(re.findall(r"(sm_\d+)\w*\.(?:cubin|ptx)", _cuobjdump(f"--list-{kind}", binary)))


def resources(binary: Path) -> dict[str, dict[str, int]]:
    """REG, STACK, SHARED and LOCAL of each kernel, "architecture mangled_name"."""
    found: dict[str, dict[str, int]] = {}
    architecture = name = ""
    for line in _cuobjdump("--dump-resource-usage", binary).splitlines():
        if match := re.match(r"arch = (\w+)", line):
            architecture = match[1]
        elif match := re.match(r" *Function (\S+):", line):
            name = match[1]
        elif "REG:" in line:
            fields = re.findall(r"([A-Z]+):(\d+)", line)
            found[f"{architecture} {name}".strip()] = {key: int(value) for key, value in fields}
    return found


def most_threads(binary: Path, architecture: str = "sm_90") -> dict[str, int]:
    """The launch bounds of each kernel, by mangled name."""
    found: dict[str, int] = {}
    name = attribute = ""
    for line in _cuobjdump("-elf", "-arch", architecture, binary).splitlines():
        if match := re.match(r"\.nv\.info\.(\w+)", line):
            name = match[1]
        elif match := re.match(r"\s+Attribute:\s+(\w+)", line):
            attribute = match[1]
        elif attribute == "EIATTR_MAX_THREADS" and (match := re.match(r"\s+Value:\s+(\w+)", line)):
            found[name] = int(match[1], 16)
    return found


def library_instructions() -> dict[str, Counter[str]]:
    """`instructions` of the built library, which takes 20 s: once for all test processes."""
    state = hashlib.sha256(CUDA_LIBRARY_PATH.read_bytes()).hexdigest()[:16]
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / f"instructions-{state}.json").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        if not (text := file.read()):
            text = json.dumps(instructions(CUDA_LIBRARY_PATH))
            file.write(text)
    return {name: Counter(used) for name, used in json.loads(text).items()}


def listing(binary: Path) -> dict[str, list[Instruction]]:
    """The machine code of each kernel, "architecture mangled_name"."""
    found: dict[str, list[Instruction]] = {}
    architecture = name = ""
    line_of_code = re.compile(
        r"\s+/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+) )?([A-Z][A-Z0-9_.]*)\s*(.*?)\s*;"
    )
    for line in _cuobjdump("-sass", binary).splitlines():
        if match := line_of_code.match(line):
            found[name].append(Instruction(int(match[1], 16), match[2] or "", match[3], match[4]))
        elif match := re.match(r"arch = (\w+)", line):
            architecture = match[1]
        elif match := re.match(r"\s+Function : (\S+)", line):
            name = f"{architecture} {match[1]}".strip()
            found[name] = []
    return found


def instructions(binary: Path) -> dict[str, Counter[str]]:
    """How often each instruction stands in each kernel, "architecture mangled_name"."""
    return {name: Counter(i.opcode for i in code) for name, code in listing(binary).items()}
