"""Builds the wheel and the sdist into dist/, and checks what a stranger's machine would meet.

    make wheel                       # python tools/wheel.py: build, then check
    python tools/wheel.py --check    # check what is in dist/

The tag is the oldest manylinux that auditwheel finds true of the symbols, which the glibc and GCC
of this machine decide; tools/manylinux.sh links with older ones. What each architecture takes of
the CUDA library is printed.
"""

from __future__ import annotations

import argparse
import json
import re
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from shutil import rmtree

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerSymSection
from elftools.elf.sections import SymbolTableSection

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
STABLE_ABI = 0x020A000000000000  # as CMakeLists.txt has it: torch 2.10
# Beside these a library may need what every manylinux has.
TORCH = {"_C.so": {"libtorch_cpu.so"}, "_C_cuda.so": {"libtorch_cpu.so", "libtorch_cuda.so"}}
SYSTEM = re.compile(
    r"(libc|libm|libdl|librt|libpthread|libstdc\+\+|libgcc_s|ld-linux-x86-64)\.so\."
)


def stable_symbols() -> set[str]:
    """The functions of torch's stable ABI that torch 2.10 has, by the headers' own conditions."""
    spec = find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    include = Path(spec.origin).parent / "include"
    headers = ("torch/csrc/inductor/aoti_torch/c/shim.h", "torch/csrc/stable/c/shim.h")
    source = "".join(f"#include <{header}>\n" for header in headers)
    command = ["c++", "-E", "-P", "-x", "c++", f"-I{include}", "-DUSE_CUDA"]
    command += [f"-DTORCH_TARGET_VERSION={STABLE_ABI:#018x}", "-"]
    text = subprocess.run(command, input=source, capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"\b((?:aoti_)?torch_\w+)\s*\(", text))


def torch_symbols(library: ELFFile) -> set[str]:
    """What a library wants of torch: symbols without a version, which nothing else leaves out."""
    names = set()
    symbols = library.get_section_by_name(".dynsym")
    assert isinstance(symbols, SymbolTableSection)
    versions = library.get_section_by_name(".gnu.version")
    assert isinstance(versions, GNUVerSymSection)
    for number, symbol in enumerate(symbols.iter_symbols()):
        undefined = symbol["st_shndx"] == "SHN_UNDEF" and symbol["st_info"]["bind"] != "STB_WEAK"
        unversioned = versions.get_symbol(number)["ndx"] in ("VER_NDX_LOCAL", "VER_NDX_GLOBAL")
        if undefined and unversioned and symbol.name:
            names.add(symbol.name)
    return names


def faults_of(name: str, content: bytes, stable: set[str]) -> list[str]:
    """What keeps a library from running with every torch from 2.10 on."""
    library = ELFFile(BytesIO(content))
    dynamic = library.get_section_by_name(".dynamic")
    assert isinstance(dynamic, DynamicSection)
    tags = list(dynamic.iter_tags())
    needed = {tag.needed for tag in tags if tag.entry.d_tag == "DT_NEEDED"}
    foreign = {library for library in needed - TORCH[name] if not SYSTEM.match(library)}
    found = [f"{name} needs {library}" for library in sorted(foreign)]
    if any(tag.entry.d_tag in ("DT_RPATH", "DT_RUNPATH") for tag in tags):
        found.append(f"{name} has the path of a folder of the machine that built it")
    outside = sorted(torch_symbols(library) - stable)
    return found + [f"{name}: {symbol} is not in torch 2.10's stable ABI" for symbol in outside]


def shares(content: bytes) -> Counter[str]:
    """Bytes of each architecture's compressed machine code and PTX in a CUDA library."""
    section = ELFFile(BytesIO(content)).get_section_by_name(".nv_fatbin")
    data, at, found = section.data(), 0, Counter[str]()
    while at < len(data):
        magic, _, header, size = struct.unpack_from("<IHHQ", data, at)
        if magic != 0xBA55ED50:  # padding between the binaries of two files
            at += 8
            continue
        at, end = at + header, at + header + size
        while at < end:
            kind, _, header, size = struct.unpack_from("<HHIQ", data, at)
            (number,) = struct.unpack_from("<I", data, at + 28)
            found[f"{'sm' if kind == 2 else 'compute'}_{number}"] += header + size
            at += header + size
    return found


def build(arguments: list[str]) -> None:
    """One of PEP 517's artifacts, by what is installed here."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", DIST, *arguments]
    subprocess.run([*command, ROOT], check=True, stdout=subprocess.DEVNULL)


def build_both() -> None:
    """An sdist, and a wheel with the tag that its symbols allow."""
    for stale in (DIST, ROOT / "build" / "lib", *ROOT.glob("build/bdist.*")):
        rmtree(stale, ignore_errors=True)
    build(["--sdist"])
    build(["--wheel"])
    (plain,) = DIST.glob("*.whl")
    shown = subprocess.run(
        [sys.executable, "-m", "auditwheel", "show", "--json", plain],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    tag = json.loads(shown.stdout)["sym_tag"]
    if not tag.startswith("manylinux"):
        sys.exit(f"tools/wheel.py: auditwheel finds no manylinux in {plain.name}: {shown.stdout}")
    plain.unlink()
    build(["--wheel", f"-C--build-option=--plat-name={tag}"])  # nothing is compiled again


def check(folder: Path = DIST) -> list[str]:
    """What is wrong with the wheel and the sdist in a folder."""
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    found = []
    with tarfile.open(sdist) as tar:
        source = {name.partition("/")[2] for name in tar.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    libraries = {n.removeprefix("sssd/"): c for n, c in files.items() if n.endswith(".so")}
    package = {name for name in files if name.startswith("sssd/") and not name.endswith(".so")}
    found += [f"{name} is in the wheel, not in the sdist" for name in sorted(package - source)]
    native = (p for name in ("cmake", "csrc", "kernels") for p in (ROOT / name).rglob("*.*"))
    wanted = ["CMakeLists.txt", "LICENSE", "setup.py", *(str(p.relative_to(ROOT)) for p in native)]
    found += [f"{name} is not in the sdist" for name in wanted if name not in source]
    if "_C.so" not in libraries:
        found.append("the wheel has no _C.so")
    stable = stable_symbols()
    for name, content in libraries.items():
        found += faults_of(name, content, stable)
    twine = [sys.executable, "-m", "twine", "check", "--strict", wheel, sdist]
    if subprocess.run(twine, capture_output=True, check=False).returncode:
        found.append(f"`{' '.join(map(str, twine[1:]))}` fails")
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB, {sdist.name}: "
          f"{sdist.stat().st_size / 1e6:.1f} MB")  # fmt: skip
    for name, content in libraries.items():
        print(f"  {name}: {len(content) / 1e6:.2f} MB")
        if name == "_C_cuda.so":
            for code, size in shares(content).items():
                print(f"    {code}: {size / 1e6:.2f} MB")
    return found


def main() -> None:
    """Build unless told not to, then check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="build nothing")
    if not parser.parse_args().check:
        build_both()
    if found := check():
        sys.exit("\n".join(["tools/wheel.py: not fit to be handed out:", *found]))


if __name__ == "__main__":
    main()
