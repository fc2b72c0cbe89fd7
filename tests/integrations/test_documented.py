"""The code of docs/integrations.md runs as it stands on the page."""

from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs/integrations.md"


def test_another_detector() -> None:
    code = PAGE.read_text().split("## Other detectors", 1)[1].split("```python\n")[1]
    space: dict[str, object] = {}
    exec(code.split("```")[0], space)
    assert space["losses"].keys() == {"loss_cls", "teacher_loss_cls", "loss_distillation"}
    assert all(p.grad is not None for p in space["distillation"].parameters())
