"""The code of docs/integrations.md trains a step, as it stands on the page.

detectron2 and mmdetection are no packages of PyPI that run without being built for one torch: small
detectors with the interface of their base classes stand in for them.
"""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from sssd.integrations import SelfDistillation, boxes_in_pixels, split_by_image

PAGE = Path(__file__).resolve().parents[2] / "docs/integrations.md"
CLASSES, SIZE = 3, 64
BOXES = torch.tensor([[4.0, 4.0, 30.0, 34.0], [20.0, 10.0, 60.0, 58.0]])
LABELS = torch.tensor([0, CLASSES - 1])


def documented(heading: str, **names: Any) -> dict[str, Any]:
    """What the code below a heading defines, given what it imports."""
    section = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    (text,) = (part for part in section if part.startswith(heading))
    ours = {"SelfDistillation": SelfDistillation, "boxes_in_pixels": boxes_in_pixels}
    space = {"torch": torch, "nn": nn, "split_by_image": split_by_image, **ours, **names}
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], space)
    return space


class Pyramid(nn.Module):
    """Three maps of 64 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList(nn.Conv2d(w, 64, 3, 2, 1) for w in (3, 64, 64))

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [images]
        for step in self.steps:
            maps.append(step(maps[-1]))
        return maps[1:]


def assert_trains(model: nn.Module, losses: dict[str, Tensor], body: nn.Module) -> None:
    """The losses reach every parameter, and the distance reaches the body."""
    (gradient,) = torch.autograd.grad(
        losses["loss_distillation"], next(body.parameters()), retain_graph=True
    )
    assert gradient.abs().sum() > 0
    torch.stack(list(losses.values())).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


class RetinaNet(nn.Module):
    """The interface of detectron2's: DenseDetector.forward, losses in forward_training."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.scores = Pyramid(), nn.Conv2d(64, CLASSES, 1)
        self.deltas = nn.Conv2d(64, 4, 1)

    def head(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        return [self.scores(f) for f in features], [self.deltas(f) for f in features]

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        images = SimpleNamespace(tensor=torch.stack([x["image"] for x in batched_inputs]))
        maps = dict(zip(("p3", "p4", "p5"), self.backbone(images.tensor), strict=True))
        features = [maps[name] for name in ("p3", "p4", "p5")]
        instances = [x["instances"] for x in batched_inputs]
        return self.forward_training(images, features, self.head(features), instances)

    def forward_training(
        self, images: Any, features: list[Tensor], predictions: Any, gt_instances: list[Any]
    ) -> dict[str, Tensor]:
        scores, deltas = predictions
        assert len(gt_instances) == len(images.tensor)
        count = sum(len(instances.gt_classes) for instances in gt_instances)
        return {
            "loss_cls": torch.stack([s.square().mean() for s in scores]).sum() / count,
            "loss_box_reg": torch.stack([d.abs().mean() for d in deltas]).sum() / count,
        }


def test_detectron2() -> None:
    torch.manual_seed(0)
    model = documented("detectron2", RetinaNet=RetinaNet)["DistilledRetinaNet"]()
    model.distillation = SelfDistillation(CLASSES, 64)
    empty = SimpleNamespace(gt_boxes=SimpleNamespace(tensor=BOXES[:0]), gt_classes=LABELS[:0])
    full = SimpleNamespace(gt_boxes=SimpleNamespace(tensor=BOXES), gt_classes=LABELS)
    inputs = [{"image": torch.rand(3, SIZE, SIZE), "instances": one} for one in (full, empty)]
    losses = model(inputs)
    own = {"loss_cls", "loss_box_reg"}
    assert losses.keys() == own | {f"teacher_{name}" for name in own} | {"loss_distillation"}
    assert_trains(model, losses, model.backbone)


class Head(nn.Module):
    """The interface of mmdetection's dense heads: a list of losses, one a level."""

    num_classes = CLASSES

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Conv2d(64, CLASSES, 1)

    def loss(self, x: tuple[Tensor, ...], batch_data_samples: list[Any]) -> dict[str, Any]:
        assert isinstance(x, tuple)
        scores = [self.scores(one) for one in x]
        count = sum(len(sample.gt_instances.labels) for sample in batch_data_samples)
        return {
            "loss_cls": [s.square().mean() / count for s in scores],
            "loss_bbox": [s.abs().mean() / count for s in scores],
            "loss_centerness": scores[0].exp().mean(),
        }


class SingleStageDetector(nn.Module):
    """The interface of mmdetection's: backbone, neck, extract_feat, bbox_head."""

    def __init__(self, neck: nn.Module, bbox_head: nn.Module) -> None:
        super().__init__()
        self.neck, self.bbox_head = neck, bbox_head

    def extract_feat(self, batch_inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.neck(batch_inputs))


def test_mmdetection() -> None:
    torch.manual_seed(0)
    code = documented("mmdetection", SingleStageDetector=SingleStageDetector)
    # The page has its detectors' width.
    code["SelfDistillation"] = lambda classes, width: SelfDistillation(classes, width // 4)
    model = code["DistilledDetector"](Pyramid(), bbox_head=Head())
    samples = [
        SimpleNamespace(gt_instances=SimpleNamespace(bboxes=BOXES[:n], labels=LABELS[:n]))
        for n in (2, 0)
    ]
    losses = model.loss(torch.rand(2, 3, SIZE, SIZE), samples)
    own = {"loss_cls", "loss_bbox", "loss_centerness"}
    assert losses.keys() == own | {f"teacher_{name}" for name in own} | {"loss_distillation"}
    assert all("loss" in name for name in losses), "mmengine adds no others"
    assert_trains(model, losses, model.neck)
