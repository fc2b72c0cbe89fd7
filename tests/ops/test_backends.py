"""Which backend runs: the rule, the ways to ask for one, and a package that was never built."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sssd.ops import dispatch, explain, js_distance, use_backend
from sssd.ops.divergence_kernels import OPERATOR

MAPS = [torch.randn(1, 4, 2, 2)]
NATIVE = pytest.mark.skipif(bool(dispatch.MISSING), reason=dispatch.MISSING)
ROOT = Path(__file__).parents[2]


@NATIVE
def test_auto_takes_the_fastest():
    text = explain(js_distance, MAPS)
    assert text == "js_distance of 1 float32 tensor on cpu runs on backend 'cpu': " + (
        "the fastest for cpu tensors"
    )


def test_explain_obeys_the_context_and_the_argument():
    with use_backend("reference"):
        assert "'reference': asked for" in explain("js_distance", MAPS)
        assert dispatch.choose(OPERATOR, MAPS[0]).backend == "reference"
    assert "'reference': asked for" in explain("js_distance", MAPS, backend="reference")


def test_context_ends_with_an_error_inside():
    before = dispatch.choose(OPERATOR, MAPS[0])
    with pytest.raises(KeyError), use_backend("reference"):
        raise KeyError
    assert dispatch.choose(OPERATOR, MAPS[0]) == before


def test_triton_that_cannot_start_is_passed_over(monkeypatch):
    """As in a container with a GPU and without a C compiler."""
    module = pytest.importorskip("triton.runtime.driver")

    def create():
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    monkeypatch.setattr(module, "_create_driver", create)
    monkeypatch.setattr(module, "driver", module.DriverConfig())
    why = dispatch._triton_missing.__wrapped__()
    assert why == "Triton cannot start (Failed to find C compiler. Please specify via CC)"
    monkeypatch.setattr(dispatch, "_triton_missing", lambda: why)
    monkeypatch.setattr(dispatch, "CUDA_MISSING", "sssd was built without CUDA")
    on_gpu = SimpleNamespace(device=torch.device("cuda:0"), dtype=torch.float32)
    assert dispatch.choose(OPERATOR, on_gpu) == (
        "reference", f"not cuda: sssd was built without CUDA; not triton: {why}"
    )  # fmt: skip
    with pytest.raises(ValueError, match="Triton cannot start"):
        dispatch.choose(OPERATOR, on_gpu, "triton")


def test_unknown_names():
    with pytest.raises(ValueError, match="backend is 'gpu'"), use_backend("gpu"):
        pass
    with pytest.raises(ValueError, match="operator is 'softmax': expected one of"):
        explain("softmax", MAPS)


def python(code, cwd=ROOT, **environment):
    """What a fresh Python prints, both streams."""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, check=False,
    )  # fmt: skip
    return result.stdout + result.stderr


def test_environment_variable():
    code = """
import os
import sssd.ops, torch
print(sssd.ops.explain('js_distance', [torch.ones(1)]))
os.environ["SSSD_BACKEND"] = "fast"
import importlib
importlib.reload(sssd.ops.dispatch)
"""
    printed = python(code, SSSD_BACKEND="reference")
    assert "'reference': asked for" in printed
    assert "environment SSSD_BACKEND is 'fast'" in printed
    printed = python("import sssd.ops", SSSD_CPU_ISA="avx512")
    assert "environment SSSD_CPU_ISA is 'avx512': expected baseline or avx2" in printed


def test_a_command_tells_a_wrong_environment_variable_in_a_line(tmp_path):
    command = ["-m", "sssd.train", "demo", "--out", str(tmp_path / "run"), "--engine.device", "cpu"]
    result = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "SSSD_BACKEND": "fast"},
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        "error: environment SSSD_BACKEND is 'fast': expected one of auto, cuda, triton, cpu, "
        "reference"
    ]


def test_import_costs_little_more_than_torch():
    code = """
import sys, time
import torch
before, start = set(sys.modules), time.process_time()
import sssd, sssd.ops, sssd.losses
spent = time.process_time() - start
heavy = {"torch._dynamo", "torch._inductor", "sympy", "triton", "torchvision", "numpy.testing"}
print(sorted(heavy & set(sys.modules) - before), spent < 0.5, spent)
"""
    # 0.05 s where this was written, and 3.7 s with torch._dynamo.
    printed = python(code)
    assert printed.startswith("[] True"), printed


@NATIVE
@pytest.mark.parametrize(("isa", "number"), [("baseline", 0), ("avx2", 1)])
def test_every_instruction_set_gives_the_same(isa, number):
    if torch.ops.sssd.cpu_isa() < number:
        pytest.skip(f"this processor has no {isa}")
    code = """
import torch
from sssd.ops import js_distance
from tests.ops.divergence_cases import FORMATS, MEMBERS, assert_matches_truth, make_maps
print("isa", torch.ops.sssd.cpu_isa())
for format in FORMATS.values():
    for member in ('js', 'kl', 'softmax_mse', 'unbiased'):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for over in ('channels', 'cells'):
                maps = make_maps([(2, 70, 9, 13)], dtype, format)
                assert_matches_truth(*maps, over=over, **MEMBERS[member])
print("all close")
"""
    printed = python(code, SSSD_CPU_ISA=isa)
    assert printed.split("\n")[:2] == [f"isa {number}", "all close"], printed


def test_package_that_was_never_built(tmp_path):
    """A copy without the library: one warning that says how to build, and the same numbers."""
    package = tmp_path / "sssd"
    package.mkdir()
    for entry in (ROOT / "sssd").iterdir():
        if entry.name not in ("_C.so", "ops", "__pycache__"):
            (package / entry.name).symlink_to(entry)
    # `ops` finds the library beside its own folder, so it must be a real one here.
    ops = package / "ops"
    ops.mkdir()
    for entry in (ROOT / "sssd" / "ops").iterdir():
        if entry.suffix == ".py":
            (ops / entry.name).write_text(entry.read_text())
        elif entry.name != "__pycache__":
            (ops / entry.name).symlink_to(entry)
    code = (
        "import torch, sssd.ops as o; torch.manual_seed(0); m = [torch.randn(1, 4, 2, 2)]\n"
        "print(float(o.js_distance(m, [2 * x for x in m])), o.explain('js_distance', m))"
    )
    printed = python(code, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert printed.count("native operators are not built") == 2, printed  # warned, explained
    assert "python setup.py build_ext" in printed
    assert "runs on backend 'reference'" in printed
