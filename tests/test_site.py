"""What the site says is true: its code and the docstrings' examples run, its tables are complete.

`make docs` fails on a dead link.
"""

import ast
import doctest
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from sssd.ops import use_backend

ROOT = Path(__file__).resolve().parents[1]
FRAMEWORKS = {"detectron2", "mmdetection", "transformers", "ultralytics", "triton"}


def with_examples() -> Iterator[str]:
    """Modules that need no framework."""
    for path in sorted((ROOT / "sssd").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if ">>> " in path.read_text() and not {*parts} & FRAMEWORKS:
            yield ".".join(parts).removesuffix(".__init__")


@pytest.mark.parametrize("name", with_examples())
def test_examples_of_the_docstrings_run(name: str) -> None:
    failed, _ = doctest.testmod(import_module(name))
    assert failed == 0


@pytest.mark.parametrize("page", ["index", "gpu", "extend"])
def test_code_of_the_pages_runs(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text()
    codes = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert codes
    space: dict[str, object] = {"__name__": page}
    for code in codes:
        exec(compile(code, f"docs/{page}.md", "exec"), space)
    if page == "extend":
        student, teacher = ([1.0 * x] for x in (space["torch"].rand(2, 3, 4, 4) for _ in "ab"))
        with use_backend("reference"):
            assert 0 < space["pearson_loss"](student, teacher) < 2
        result = space["result"].losses
        assert result["distillation"] > 0
        sum(result.values()).backward()
        for part in (space["method"].detector, space["method"].distillation.adapter):
            assert [n for n, p in part.named_parameters() if not p.grad.any()] == []


def read_in_python(path: Path) -> Iterator[str]:
    """Environment variables that a Python file reads or sets, by the names in its calls."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            first = node.args[:1]
            if ast.unparse(node.func) in (
                "os.environ.get", "os.environ.setdefault", "os.getenv",
            ) and isinstance(first[0], ast.Constant):  # fmt: skip
                yield first[0].value
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            yield ast.literal_eval(node.slice)


def test_every_environment_variable_is_in_the_table() -> None:
    found: set[str] = set()
    for path in (*ROOT.glob("sssd/**/*.py"), ROOT / "setup.py", ROOT / "tests" / "conftest.py"):
        found |= {name for name in read_in_python(path) if name != "PYTEST_XDIST_WORKER"}
    for path in (p for p in ROOT.glob("kernels/**/*") if p.suffix in (".h", ".cu", ".cuh", ".cpp")):
        found |= set(re.findall(r'getenv\("(\w+)"\)', path.read_text()))
    for path in ROOT.glob("cmake/*.cmake"):
        text = path.read_text()
        found |= set(re.findall(r"(?<!\$)\bENV (\w+)", text))
        for names in re.findall(r"foreach\(name ([\w ]+)\)", text):
            found |= {*names.split()} - {"CMAKE_CUDA_ARCHITECTURES"}  # CMake's own variable
    table = (ROOT / "docs" / "install.md").read_text().partition("## Environment variables")[2]
    listed = {
        n for row in re.findall(r"^\| (`.+?) \|", table, re.M) for n in re.findall(r"\w+", row)
    }
    assert listed == found


def messages() -> Iterator[str]:
    """Every text in the package as the user sees it; what is filled in stands as {}."""
    for path in (*ROOT.glob("sssd/**/*.py"), ROOT / "setup.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(
                    str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


@pytest.mark.parametrize("page", ["troubleshooting", "gpu"])
def test_messages_with_a_way_out_are_those_of_the_code(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text()
    table = text.partition("| it says |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `([^`]+)` \|", table, re.M)
    assert len(rows) >= 6
    said = "\n".join(messages())
    for row in rows:
        wanted = re.sub(r"\b\d+\.\d+\b|\.\.\.", "{}", row).removesuffix("{}")
        wanted = wanted.replace("_C_cuda.so does", "{} does")
        assert wanted in said, row
