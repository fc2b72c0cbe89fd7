"""The code of docs/integrations.md trains a step, as it stands on the page.

transformers is the real one, where it is installed.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sssd.integrations import SelfDistillation, boxes_in_pixels, split_by_image

PAGE = Path(__file__).resolve().parents[2] / "docs/integrations.md"
CLASSES, SIZE = 3, 64
LABELS = torch.tensor([0, CLASSES - 1])


def documented(heading: str, **names: Any) -> dict[str, Any]:
    """What the code below a heading defines, given what it imports."""
    section = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    (text,) = (part for part in section if part.startswith(heading))
    ours = {"SelfDistillation": SelfDistillation, "boxes_in_pixels": boxes_in_pixels}
    space = {"torch": torch, "nn": nn, "split_by_image": split_by_image, **ours, **names}
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], space)
    return space


def test_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    code = documented(
        "transformers",
        RTDetrForObjectDetection=transformers.RTDetrForObjectDetection,
        BaseModelOutput=transformers.modeling_outputs.BaseModelOutput,
    )
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.RTDetrConfig(
        backbone_config=backbone, num_labels=CLASSES, encoder_hidden_dim=64, d_model=64,
        encoder_in_channels=[16, 16, 16], encoder_ffn_dim=64, decoder_ffn_dim=64,
        decoder_in_channels=[64, 64, 64], num_queries=20, decoder_layers=2, num_denoising=4,
        encoder_attention_heads=4, decoder_attention_heads=4,
    )  # fmt: skip
    model = code["DistilledRTDetr"](config).train()
    images = torch.rand(2, 3, SIZE, SIZE)
    centres = torch.tensor([[0.3, 0.3, 0.4, 0.5], [0.6, 0.5, 0.6, 0.7]])
    labels = [{"boxes": centres[:n], "class_labels": LABELS[:n]} for n in (2, 0)]
    runs: list[Any] = []
    model.model.backbone.register_forward_hook(lambda *_: runs.append(1))
    added: list[dict[str, Tensor]] = []
    model.distillation.register_forward_hook(lambda module, args, losses: added.append(losses))
    outputs = model(pixel_values=images, labels=labels)
    assert len(runs) == 1, "the backbone runs once"
    assert added[0].keys() == {"teacher_rtdetr", "loss_distillation"}
    (gradient,) = torch.autograd.grad(
        added[0]["loss_distillation"], next(model.model.encoder.parameters()), retain_graph=True
    )
    assert gradient.abs().sum() > 0
    outputs.loss.backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    plain = transformers.RTDetrForObjectDetection(config).eval()
    missing = plain.load_state_dict(model.state_dict(), strict=False)
    assert missing.missing_keys == []
    with torch.no_grad():
        expected = plain(pixel_values=images)
        found = model.eval()(pixel_values=images)
    torch.testing.assert_close(found.pred_boxes, expected.pred_boxes)
