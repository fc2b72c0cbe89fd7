"""A training step inside other frameworks, plain and distilled: `python -m bench.integrations`.

For each framework that is installed: the detector as it is, with `attach`, with the head on K_e
every 4th step, and with a teacher of its own kind. Forward, backward and optimizer step of all arms
are timed in turns in one process, on the same pictures of the demo; times are medians of a cycle's
steps. "own loss" is the detector's own, without ours, in the first and the last of the steps made:
few steps on few pictures, which tell that it trains and not how well.
"""

import argparse
import copy
import os
import statistics
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from sssd import attach
from sssd.compare.cost import in_turn
from sssd.data import read_coco
from sssd.data.demo import demo_data
from sssd.engine.device import name_of

CLASSES, EVERY = 10, 4
Targets = list[dict[str, Tensor]]
Loss = Callable[[nn.Module, Tensor, Targets], Tensor]


# ---- one detector a framework: how it is made, and its loss of a batch ---------------------------


def torchvision(size: int) -> tuple[nn.Module, Loss]:
    """FCOS R-50."""
    from torchvision.models.detection import fcos_resnet50_fpn

    options = {"num_classes": CLASSES, "min_size": size, "max_size": size}

    def loss(model: nn.Module, images: Tensor, targets: Targets) -> Tensor:
        return torch.stack(list(model(list(images), targets).values())).sum()

    return fcos_resnet50_fpn(weights=None, weights_backbone=None, **options), loss


def ultralytics(size: int) -> tuple[nn.Module, Loss]:
    """YOLO11n."""
    from ultralytics.cfg import get_cfg
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel("yolo11n.yaml", nc=CLASSES, verbose=False)
    model.args = get_cfg()

    def loss(model: nn.Module, images: Tensor, targets: Targets) -> Tensor:
        batch = {
            "img": images,
            "bboxes": torch.cat([_fractions(t["boxes"], size) for t in targets]),
            "cls": torch.cat([t["labels"] for t in targets])[:, None],
            "batch_idx": torch.cat(
                [torch.full_like(t["labels"], i) for i, t in enumerate(targets)]
            ),
        }
        return model(batch)[0].sum()

    return model, loss


def transformers(size: int) -> tuple[nn.Module, Loss]:
    """RT-DETR R-18."""
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

    backbone = RTDetrResNetConfig(
        embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2],
        layer_type="basic", out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = RTDetrConfig(
        backbone_config=backbone, num_labels=CLASSES, encoder_in_channels=[128, 256, 512],
        num_queries=100, decoder_layers=3,
    )  # fmt: skip

    def loss(model: nn.Module, images: Tensor, targets: Targets) -> Tensor:
        labels = [
            {"boxes": _fractions(t["boxes"], size), "class_labels": t["labels"]} for t in targets
        ]
        return model(pixel_values=images, labels=labels).loss

    return RTDetrForObjectDetection(config), loss


def detectron2(size: int) -> tuple[nn.Module, Loss]:
    """RetinaNet R-50."""
    from detectron2 import model_zoo
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model
    from detectron2.structures import Boxes, Instances
    from detectron2.utils.events import EventStorage

    config = get_cfg()
    config.merge_from_file(model_zoo.get_config_file("COCO-Detection/retinanet_R_50_FPN_1x.yaml"))
    config.MODEL.DEVICE, config.MODEL.RETINANET.NUM_CLASSES = "cpu", CLASSES

    def loss(model: nn.Module, images: Tensor, targets: Targets) -> Tensor:
        inputs = [
            {
                "image": 255 * image,
                "instances": Instances(
                    (size, size), gt_boxes=Boxes(t["boxes"]), gt_classes=t["labels"]
                ),
            }
            for image, t in zip(images, targets, strict=True)
        ]
        with EventStorage():
            return torch.stack(list(model(inputs).values())).sum()

    return build_model(config), loss


def mmdet(size: int) -> tuple[nn.Module, Loss]:
    """RetinaNet R-50."""
    from mmdet.registry import MODELS
    from mmdet.structures import DetDataSample
    from mmdet.utils import register_all_modules
    from mmengine import Config
    from mmengine.structures import InstanceData

    register_all_modules()
    config = Config.fromstring(
        '_base_ = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"\n'
        f"model = dict(backbone=dict(init_cfg=None), bbox_head=dict(num_classes={CLASSES}))",
        ".py",
    )

    def loss(model: nn.Module, images: Tensor, targets: Targets) -> Tensor:
        shape = {"img_shape": (size, size), "pad_shape": (size, size), "scale_factor": (1.0, 1.0)}
        samples = []
        for t in targets:
            truth = InstanceData(bboxes=t["boxes"], labels=t["labels"])
            samples.append(DetDataSample(gt_instances=truth, metainfo=shape))
        losses = model(images, samples, mode="loss")
        return model.parse_losses(losses)[0]

    return MODELS.build(config.model), loss


FRAMEWORKS = {f.__name__: f for f in (torchvision, ultralytics, transformers, detectron2, mmdet)}


def _fractions(boxes: Tensor, size: int) -> Tensor:
    centre, extent = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    return torch.cat([centre, extent], 1) / size


# ---- the measurement -----------------------------------------------------------------------------


def pictures(count: int, size: int) -> tuple[Tensor, Targets]:
    """Digits on photographs."""
    data = demo_data(image_size=size, train_scenes=count, val_scenes=1)
    scenes = [read_coco(data.train_json, data.train_images)[i] for i in range(count)]
    images = torch.stack([image.as_subclass(Tensor).float() / 255 for image, _ in scenes])
    targets = [{key: t[key].as_subclass(Tensor) for key in ("boxes", "labels")} for _, t in scenes]
    return images, targets


def arms(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The detector, distilled in several ways, each from the same weights."""
    settings: dict[str, dict[str, Any]] = {
        "plain": {},
        "attach": {"coefficient": 1.0},
        f"attach, K_e every {EVERY}th": {"coefficient": 1.0, "teacher_every": EVERY},
        "teacher, cwd": {"teacher": copy.deepcopy(model)},
    }
    for name, own in settings.items():
        arm = copy.deepcopy(model).train()
        if own:
            attach(arm, **own)
        yield name, arm


class Training:
    """One arm's steps, EVERY at a time.

    Attributes:
        own: the detector's own loss, without ours, of each step.
    """

    def __init__(self, model: nn.Module, loss: Loss, batch: tuple[Tensor, Targets]) -> None:
        self.model, self.loss, self.batch = model, loss, batch
        self.optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad], lr=1e-4
        )
        self.own: list[float] = []
        self.added: dict[str, Tensor] = {}
        if (part := getattr(model, "distillation", None)) is not None:
            part.register_forward_hook(lambda module, args, losses: self.added.update(losses))

    def __call__(self) -> None:
        for _ in range(EVERY):
            self.added.clear()
            total = self.loss(self.model, *self.batch)
            self.optimizer.zero_grad()
            total.backward()
            self.optimizer.step()
            ours = sum(float(x) for x in self.added.values())
            scale = len(self.batch[0]) if "ultralytics" in type(self.model).__module__ else 1
            self.own.append(float(total) - scale * ours)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    there = [name for name in FRAMEWORKS if find_spec(name)]
    parser.add_argument("--frameworks", nargs="+", default=there, choices=list(FRAMEWORKS))
    parser.add_argument("--size", type=int, default=160, help="pixels a side")
    parser.add_argument("--batch", type=int, default=2, help="images")
    parser.add_argument("--rounds", type=int, default=2, help=f"timed cycles of {EVERY} steps")
    arguments = parser.parse_args()
    os.environ.setdefault("YOLO_OFFLINE", "true")
    print(
        f"torch {torch.__version__}, {name_of(torch.device('cpu'))}; "
        f"{arguments.batch} images of {arguments.size} pixels"
    )
    table = Table()
    for column in ("framework", "arm"):
        table.add_column(column)
    for column in ("ms", "x plain", "own loss, first step", "last step"):
        table.add_column(column, justify="right")
    batch = pictures(arguments.batch, arguments.size)
    for framework in arguments.frameworks:
        torch.manual_seed(0)
        model, loss = FRAMEWORKS[framework](arguments.size)
        trainings = {name: Training(arm, loss, batch) for name, arm in arms(model)}
        seconds = in_turn(trainings, arguments.rounds, torch.device("cpu"))
        medians = {name: statistics.median(times) / EVERY for name, times in seconds.items()}
        for name, training in trainings.items():
            first, last = training.own[0], training.own[-1]
            table.add_row(
                *(f"{framework}, {FRAMEWORKS[framework].__doc__}".rstrip("."), name),
                *(f"{1e3 * medians[name]:.0f}", f"{medians[name] / medians['plain']:.2f}"),
                *(f"{first:.3f}", f"{last:.3f}"),
            )
        table.add_section()
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
