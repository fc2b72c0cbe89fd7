"""What the emulator refuses: each limit of a chip, and each fault, planted in a small kernel."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.kernels.building import HOST, SEEN, WARNINGS, cached, compiler

# The answer of each attempt of planted.cpp, as the start of a pattern.
EXPECTED = {
    "aligned load": "passed",
    "aligned store": "passed",
    "load of 16 bytes": r"fault misaligned load of 16 bytes, .*planted.cpp:\d+, thread 0",
    "load of 8 bytes": "fault misaligned load of 8 bytes, .*planted.cpp",
    "load of 4 bytes": "fault misaligned load of 4 bytes, .*planted.cpp",
    "load of 2 bytes": "fault misaligned load of 2 bytes, .*planted.cpp",
    "store of 16 bytes": "fault misaligned store of 16 bytes, .*planted.cpp",
    "store of 8 bytes": "fault misaligned store of 8 bytes, .*planted.cpp",
    "plain load": "fault misaligned load of 4 bytes",
    "load of shared memory": "fault misaligned load of 16 bytes",
    "store of shared memory": "fault misaligned store of 16 bytes",
    "dynamic, written": "passed",
    "dynamic, not written": "fault unwritten shared memory: load of 4 bytes .*thread 0",
    "static, written": "passed",
    "static, not written": "fault unwritten shared memory: load of 4 bytes",
    "another block's": "fault unwritten shared memory: load of 4 bytes .*block 1",
    "1024 threads": "passed",
    "1025 threads": "refused 9 1025 threads a block on sm_90",
    "no threads": "refused 9 0 threads",
    "65 threads deep": "refused 9 65 threads",
    "no blocks": "refused 9 a grid of 0 x",
    "2^31 blocks": "refused 9 a grid of 2147483648 x",
    "65535 blocks along y": "passed",
    "65536 blocks along y": "refused 9 a grid of 1 x 65536 x",
    "65536 blocks along z": "refused 9 a grid of 1 x 1 x 65536",
    "static of 48 KB": "passed",
    "static of more": "fault 49156 bytes of static shared memory, 0 of dynamic, where 49152 are",
    "static and dynamic of 48 KB": "passed",
    "static and dynamic of more": "fault 40960 bytes of static shared memory, 8196 of dynamic",
    "asked for less": "fault less shared memory than the kernel was allowed before",
    "dynamic of 48 KB": "passed",
    "dynamic that was not asked for": "refused 1 49156 bytes of dynamic .* 49152 are allowed",
    "registers of 512 threads": "passed",
    "more than the launch bounds": "refused 701 544 threads .* launch bounds of 512",
    "one register more": "refused 701 512 threads of 129 registers",
}
SHARED = {75: 64, 80: 163, 86: 99, 90: 227, 120: 99}  # KB of a block
CLUSTERS = {90, 120}
for chip, kilobytes in SHARED.items():
    has = chip in CLUSTERS
    EXPECTED |= {
        f"sm_{chip} all shared memory": "passed",
        f"sm_{chip} more shared memory": f"refused 1 {kilobytes * 1024 + 4} bytes",
        f"sm_{chip} static beside all": "fault 4 bytes of static shared memory",
        f"sm_{chip} cluster of 8": "passed" if has else "refused 801 a cluster",
        f"sm_{chip} cluster of 16": "refused 912 a cluster of 16" if has else "refused 801",
        f"sm_{chip} half a cluster": "refused 9 a grid" if has else "refused 801",
        f"sm_{chip} cluster barrier": "passed" if has else "fault a cluster barrier",
    }


@pytest.fixture(scope="module")
def answers() -> dict[str, str]:
    common = [compiler(), "-std=c++20", "-O1", "-I.", *HOST, *WARNINGS]
    parts = {
        "planted": [*SEEN, "tests/kernels/planted.cpp"],
        **{p: [f"tests/kernels/emulator/{p}.cpp"] for p in ("fibers", "runtime", "every_access")},
    }
    commands = [[*common, "-c", *parts[part], "-o", f"{{out}}/{part}.o"] for part in parts]
    commands.append([compiler(), *(f"{{out}}/{part}.o" for part in parts), "-o", "{out}/planted"])
    program = str(cached("planted", commands))
    result = subprocess.run([program], capture_output=True, text=True, timeout=60, check=True)
    return dict(line.split(": ", 1) for line in result.stdout.splitlines())


def test_every_planted_fault_is_refused_and_nothing_else(answers: dict[str, str]) -> None:
    assert answers.keys() == EXPECTED.keys()
    for name, said in answers.items():
        assert re.match(EXPECTED[name], said), f"{name}: {said}"
