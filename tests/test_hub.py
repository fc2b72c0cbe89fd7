"""The folder for the Hugging Face kernels hub, rule by rule of its requirements' page.

Of a variant without libraries, which `make hub` links and loads.
"""

import ast
import base64
import hashlib
import importlib.util
import json
import re
import runpy
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from sssd.ops import dispatch

pytest.importorskip("elftools", reason="make hub's tools are not installed")
ROOT = Path(__file__).resolve().parents[1]
HUB = runpy.run_path(str(ROOT / "tools" / "hub.py"))
NAMES = ("_sssd_ops_0123abc", "_sssd_ops_4567def")


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two builds of the same kernel."""
    folders = []
    for name in NAMES:
        folders.append(tmp_path_factory.mktemp("hub") / "torch-stable-abi210-cpu-x86_64-linux")
        HUB["write_variant"](folders[-1], [], name, {"type": "cpu"})
    return folders


def load(init: Path, name: str) -> ModuleType:
    """A kernel as the hub's loader imports it: by its file, under a name of its own."""
    spec = importlib.util.spec_from_file_location(name, init)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there are no libraries
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def kernels(variants: list[Path]) -> list[ModuleType]:
    return [load(folder / "__init__.py", f"kernel{i}") for i, folder in enumerate(variants)]


def test_two_versions_live_in_one_process(kernels: list[ModuleType]) -> None:
    """Portable and unique: not on the path, and operators under a name of their own."""
    maps = [torch.rand(1, 4, 3, 3)]
    for kernel, name in zip(kernels, NAMES, strict=True):
        assert float(kernel.js_distance(maps, maps)) == 0
        assert hasattr(getattr(torch.ops, name), "divergence_forward")
        assert kernel.ops.dispatch.kernel("box_pool", "cpu").name() == f"{name}::box_pool"
    assert kernels[0].js_distance is not kernels[1].js_distance


def test_operators_are_in_no_other_namespace(variants: list[Path]) -> None:
    for path in variants[0].rglob("*.py"):
        code = ast.unparse(ast.parse(path.read_text()))
        assert "torch.ops.sssd" not in code, path
        assert "'sssd::" not in code.replace("f'sssd::{name} was called", ""), path


def test_imports_are_relative_or_of_the_standard_library_and_torch(variants: list[Path]) -> None:
    for path in variants[0].rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            allowed = {*sys.stdlib_module_names, "torch"}
            if path.parent.name == "triton":  # torch's own compiler, imported when it is called
                allowed.add("triton")
            for name in names:
                assert name.partition(".")[0] in allowed, f"{path}: {name}"


def test_metadata_has_what_is_required(variants: list[Path]) -> None:
    metadata = json.loads((variants[0] / "metadata.json").read_text())
    assert {
        *["id", "name", "version", "license", "python-depends", "backend", "digest"]
    } == metadata.keys()
    assert metadata["id"] == NAMES[0]
    assert metadata["id"].isidentifier()
    assert metadata["name"].replace("-", "_") == HUB["NAME"]
    assert isinstance(metadata["version"], int)
    assert metadata["digest"]["algorithm"] == "sha256"
    listed = metadata["digest"]["files"]
    here = {str(p.relative_to(variants[0])): p for p in variants[0].rglob("*.*")}
    assert listed.keys() == {n for n in here if n.endswith(".py")}
    for name, digest in listed.items():
        content = here[name].read_bytes()
        assert base64.b64decode(digest) == hashlib.sha256(content).digest()


def test_the_folder_of_the_kernels_name_exports_the_same(
    tmp_path: Path, kernels: list[ModuleType]
) -> None:
    HUB["write_variant"](tmp_path / "variant", [], "_sssd_ops_89abcde", {"type": "cpu"})
    older = load(tmp_path / "variant" / HUB["NAME"] / "__init__.py", "older")
    assert older.__all__ == kernels[0].__all__
    assert float(older.js_distance(*[[torch.ones(1, 2, 3, 3)]] * 2)) == 0


def test_layers_are_pure(kernels: list[ModuleType]) -> None:
    layers = kernels[0].layers
    classes = [x for x in vars(layers).values() if isinstance(x, type) and issubclass(x, nn.Module)]
    assert len(classes) == 2
    for layer in classes:
        own = {n for n in vars(layer) if not (n.startswith("__") and n != "__init__")}
        assert own <= {"forward", "has_backward", "can_torch_compile"}, layer
        assert "forward" in own
        assert not layer().state_dict()
    assert "layers" in kernels[0].__all__


def test_everything_public_is_in_all(kernels: list[ModuleType]) -> None:
    import sssd.ops

    assert {*kernels[0].__all__} == {*sssd.ops.__all__, "layers"}
    for name in kernels[0].__all__:
        assert hasattr(kernels[0], name)


# Functions that glibc 2.34 took from libdl, libpthread, librt into libc.so.6, and what headers of a
# newer system ask for: older libraries to link with (tools/manylinux.sh) are all that these want.
OF_THE_BASE = re.compile(
    r"dl\w+|pthread_\w+|sem_\w+|shm_\w+|__libc_single_threaded|_ZSt28__throw_bad_array_new_lengthv"
)


@pytest.mark.skipif(bool(dispatch.MISSING), reason=dispatch.MISSING)
def test_the_code_itself_asks_for_nothing_newer_than_manylinux_2_28() -> None:
    for library in (ROOT / "sssd").glob("*.so"):
        newer = HUB["beyond_manylinux_2_28"](library)
        assert [name for name in newer if not OF_THE_BASE.fullmatch(name)] == []
