"""Writes build/hub, the operators as the Hugging Face kernels hub takes them, and loads them.

    make hub                # python tools/hub.py, behind `python setup.py build_ext`

The rules are https://huggingface.co/docs/kernels/kernel-requirements (read in November 2026);
tests/test_hub.py has a test for each. Sources are those of sssd/ops with relative imports; the
libraries are linked anew of the same kernels, with the operators under a name that no other build
has. One rule is kept where the libraries are linked with an old enough system alone
(tools/manylinux.sh): manylinux_2_28. One cannot be: Python 3.9, for which there is no torch 2.10.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from elftools.elf.elffile import ELFFile

ROOT = Path(__file__).resolve().parents[1]
NAME, VERSION = "sssd_ops", 0  # of the interface; 0 says that it may still change
LICENSE = "Apache-2.0"

INIT = '''"""Feature divergences, box pooling and painting, label heatmaps, with gradients."""

from . import layers
from .ops import (
{names}
)

__all__ = [
    "layers",
{quoted}
]
'''

LAYERS = '''"""The operators as layers without state."""

from __future__ import annotations

import torch
from torch import nn

from .ops import js_distance, pool_boxes


class JSDistance(nn.Module):
    """Mean over levels of the Jensen-Shannon distance of both lists of maps."""

    can_torch_compile: bool = True

    def forward(self, student: list[torch.Tensor], teacher: list[torch.Tensor]) -> torch.Tensor:
        return js_distance(student, teacher)


class PoolBoxes(nn.Module):
    """Mean of each map over the cells of each box."""

    can_torch_compile: bool = True

    def forward(
        self,
        levels: list[torch.Tensor],
        boxes: torch.Tensor,
        image_index: torch.Tensor,
        image_size: tuple[int, int],
    ) -> torch.Tensor:
        return pool_boxes(levels, boxes, image_index, image_size)
'''

# For versions of `kernels` that look for a folder of the kernel's name.
COMPATIBLE = """import importlib.util
import sys
from pathlib import Path

_init = Path(__file__).resolve().parents[1] / "__init__.py"
_name = f"{__name__}_of_{abs(hash(_init)):x}"
_spec = importlib.util.spec_from_file_location(_name, _init)
_kernel = importlib.util.module_from_spec(_spec)
sys.modules[_name] = _kernel
_spec.loader.exec_module(_kernel)
__all__ = _kernel.__all__
globals().update({name: getattr(_kernel, name) for name in __all__})
"""

CARD = """---
license: apache-2.0
tags: [kernel]
---

# {name}

Fused operators for the distillation of object detectors, each with its gradients: divergences of
two lists of feature maps (Jensen-Shannon, KL, MSE, cosine; softmax or standardised), pooling and
painting of boxes, label heatmaps. For CPU (AVX2, AVX-512) and CUDA; elsewhere plain PyTorch.

```python
from kernels import get_kernel

ops = get_kernel("ORGANISATION/{name}", version={version})
loss = ops.js_distance(student_maps, teacher_maps)
loss.backward()
```

Variants in build/: {variants}. Torch from 2.10 on (stable ABI).
"""


def unique_name() -> str:
    """Name in torch.ops: of the commit, and of what was changed since."""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run(
        [*git, "rev-parse", "--short=7", "HEAD"], capture_output=True, text=True
    )
    changes = subprocess.run([*git, "diff", "HEAD", "--", "csrc", "kernels", "sssd/ops"],
                             capture_output=True, check=False).stdout  # fmt: skip
    changed = f"_{hashlib.sha256(changes).hexdigest()[:7]}" if changes else ""
    return f"_{NAME}_{commit.stdout.strip() or 'no_git'}{changed}"


def relative(text: str, package: tuple[str, ...], name: str) -> str:
    """A module of sssd/ops with relative imports and operators under another name.

    Args:
        text: its source.
        package: the folders below `ops` that it is in.
        name: of the operators in torch.ops.
    """
    up = "." * (len(package) + 1)
    text = re.sub(r"\bfrom sssd\.ops import\b", f"from {up} import", text)
    text = re.sub(r"\bfrom sssd\.ops\.([\w.]+) import\b", rf"from {up}\1 import", text)
    text = re.sub(r'"sssd\.ops\.(triton\.\w+)"', r'f"{__package__}.\1"', text)
    text = text.replace("torch.ops.sssd.", f"torch.ops.{name}.").replace(
        "getattr(torch.ops.sssd,", f"getattr(torch.ops.{name},"
    )
    return text.replace('Library("sssd"', f'Library("{name}"').replace('f"sssd::', f'f"{name}::')


def write_variant(
    folder: Path, libraries: list[Path], name: str, backend: dict[str, object]
) -> None:
    """One build variant: the package, its libraries, and metadata.json.

    Args:
        folder: of the variant, which is written anew.
        libraries: files, named as `sssd.ops.dispatch` looks for them.
        name: of the operators in torch.ops.
        backend: the metadata's entry.
    """
    shutil.rmtree(folder, ignore_errors=True)
    ops = ROOT / "sssd" / "ops"
    for path in ops.rglob("*.py"):
        inside = path.relative_to(ops)
        target = folder / "ops" / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(relative(path.read_text(), inside.parts[:-1], name))
    for library in libraries:
        shutil.copy2(library, folder / library.name)
    public = sorted(re.findall(r'^    "(\w+)",$', (ops / "__init__.py").read_text(), re.M))
    listed = "\n".join(f"    {n}," for n in public), "\n".join(f'    "{n}",' for n in public)
    (folder / "__init__.py").write_text(INIT.format(names=listed[0], quoted=listed[1]))
    (folder / "layers.py").write_text(LAYERS)
    (folder / NAME).mkdir()
    (folder / NAME / "__init__.py").write_text(COMPATIBLE)
    digests = {
        str(path.relative_to(folder)): base64.b64encode(
            hashlib.sha256(path.read_bytes()).digest()
        ).decode()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    metadata = {
        "id": name,
        "name": NAME.replace("_", "-"),
        "version": VERSION,
        "license": LICENSE,
        "python-depends": [],  # "optional", but kernels 0.17 does not read metadata without it
        "backend": backend,
        "digest": {"algorithm": "sha256", "files": digests},
    }
    (folder / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")


def link(name: str) -> list[Path]:
    """The libraries with the operators under a name; the kernels are those that were built."""
    build = ROOT / "build" / "native"
    cmake = shutil.which("cmake", path=Path(sys.executable).parent) or "cmake"
    subprocess.run([cmake, "-B", build, f"-DSSSD_HUB_NAME={name}"], check=True)
    wanted = ["hub"] + ["hub_cuda"] * (build / "_C_cuda.so").exists()
    subprocess.run([cmake, "--build", build, "--target", *wanted], check=True)
    folder = build / "hub libraries"
    folder.mkdir(exist_ok=True)
    targets = [folder / target.replace("hub", "_C") for target in wanted]
    return [
        Path(shutil.copy2(build / f"{target}.so", path.with_suffix(".so")))
        for target, path in zip(wanted, targets, strict=True)
    ]


def architectures() -> list[str]:
    """Of the CUDA library, as the metadata has them: 9.0, and 12.0+PTX."""
    text = (ROOT / "build/native/compile_commands.json").read_text()
    real, ptx = (
        re.findall(r"\d+", re.search(rf"-DSSSD_CUDA_{kind}=([\d,]*)", text)[1])
        for kind in ("ARCHITECTURES", "PTX")
    )
    return [f"{int(n) // 10}.{int(n) % 10}" + "+PTX" * (n in ptx) for n in {**dict.fromkeys(real)}]


def beyond_manylinux_2_28(library: Path) -> dict[str, str]:
    """What a library needs of system libraries beyond the rule: symbols, each with its version."""
    most = {"GLIBC": (2, 28), "GLIBCXX": (3, 4, 24), "CXXABI": (1, 3, 11), "GCC": (7, 0, 0)}
    found = {}
    with library.open("rb") as file:
        elf = ELFFile(file)
        numbers = elf.get_section_by_name(".gnu.version")
        versions = elf.get_section_by_name(".gnu.version_r")
        for place, symbol in enumerate(elf.get_section_by_name(".dynsym").iter_symbols()):
            number = numbers.get_symbol(place)["ndx"]
            if symbol["st_shndx"] != "SHN_UNDEF" or not isinstance(number, int):
                continue
            version = versions.get_version(number)[1].name
            kind, _, least = version.partition("_")
            if kind in most and tuple(map(int, least.split("."))) > most[kind]:
                found[symbol.name] = version
    return found


def main() -> None:
    """Write the folder, load each variant from there, and say what was written."""
    name = unique_name()
    libraries = link(name)
    hub = ROOT / "build" / "hub"
    shutil.rmtree(hub, ignore_errors=True)
    variants = {"cpu": ({"type": "cpu"}, libraries[:1])}
    if len(libraries) > 1:
        (cuda,) = re.findall(r"SSSD_TORCH_CUDA:STRING=(\d+)\.(\d+)",
                             (ROOT / "build/native/CMakeCache.txt").read_text())  # fmt: skip
        variants[f"cu{''.join(cuda)}"] = {"type": "cuda", "archs": architectures()}, libraries
    for backend, (entry, files) in variants.items():
        variant = f"torch-stable-abi210-{backend}-x86_64-linux"
        write_variant(hub / "build" / variant, files, name, entry)
        code = (
            f"import importlib; k = importlib.import_module({NAME!r}); import torch; "
            "m = [torch.rand(1, 8, 4, 4)]; print(k.explain('js_distance', m), "
            "float(k.layers.JSDistance()(m, m)), sorted(k.__all__)[:2])"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=hub / "build" / variant, check=True,
                              capture_output=True, text=True)  # fmt: skip
        print(f"{variant}: {done.stdout}", end="")
    for library in libraries:
        if newer := beyond_manylinux_2_28(library):
            needed = ", ".join(sorted(set(newer.values())))
            print(f"not yet for the hub: {library.name} needs {needed} of this machine, beyond "
                  "manylinux_2_28: tools/manylinux.sh has the way")  # fmt: skip
    card = CARD.format(name=NAME, version=VERSION, variants=", ".join(
        sorted(path.name for path in (hub / "build").iterdir())))  # fmt: skip
    (hub / "README.md").write_text(card)
    shutil.copy(ROOT / "LICENSE", hub)


if __name__ == "__main__":
    main()
