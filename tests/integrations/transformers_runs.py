"""Small transformers detectors, a few scenes and a Trainer that learns from them."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from sssd.data.demo import demo_data
from sssd.integrations.transformers import DistillationCallback

NUM_CLASSES = 10
SIDE = 64
KINDS = ("RTDetr", "RTDetrV2", "DFine", "Deimv2")
STEPWISE = {"value": 4.7, "step_factor": 2.0}


def small(kind: str = "RTDetr", width: int = 64, **changes: Any) -> nn.Module:
    """A detector from a config, always with the same weights."""
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    changes = {"backbone_config": backbone, **changes}
    config = getattr(transformers, f"{kind}Config")(
        num_labels=NUM_CLASSES, encoder_in_channels=[16, 16, 32],
        encoder_hidden_dim=width, d_model=width, encoder_ffn_dim=width, decoder_ffn_dim=width,
        decoder_in_channels=[width] * 3, num_queries=12, decoder_layers=2, num_denoising=4,
        decoder_attention_heads=4, **changes,
    )  # fmt: skip
    torch.manual_seed(0)
    return getattr(transformers, f"{kind}ForObjectDetection")(config)


def scenes(root: Path, count: int = 8) -> list[dict[str, Any]]:
    """Digits on photographs, in the form that the detectors take."""
    paths = demo_data(root, image_size=128, train_scenes=count, val_scenes=1)
    document = json.loads(paths.train_json.read_text())
    rows = []
    for picture in document["images"]:
        image = Image.open(paths.train_images / picture["file_name"]).resize((SIDE, SIDE))
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        records = [r for r in document["annotations"] if r["image_id"] == picture["id"]]
        boxes = torch.tensor([r["bbox"] for r in records]) / 128
        centres = torch.cat([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]], 1)
        rows.append(
            {
                "pixel_values": pixels.view(SIDE, SIDE, 3).permute(2, 0, 1) / 255,
                "labels": {
                    "boxes": centres,
                    "class_labels": torch.tensor([r["category_id"] - 1 for r in records]),
                },
            }
        )
    return rows


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch of scenes."""
    pixel_values = torch.stack([row["pixel_values"] for row in rows])
    return {"pixel_values": pixel_values, "labels": [row["labels"] for row in rows]}


def trainer(
    model: nn.Module,
    rows: list[dict[str, Any]],
    folder: Path,
    *callbacks: TrainerCallback,
    steps: int = 2,
    **arguments: Any,
) -> Trainer:
    """A Trainer with the callback of ours, then others."""
    settings = {
        "max_steps": steps, "per_device_train_batch_size": 2, "learning_rate": 1e-3,
        "logging_steps": 1, "save_strategy": "no", "remove_unused_columns": False,
        "eval_do_concat_batches": False, "report_to": "none", "use_cpu": True,
        "disable_tqdm": True, "dataloader_pin_memory": False, "seed": 3,
    }  # fmt: skip
    return Trainer(
        model,
        TrainingArguments(str(folder), **{**settings, **arguments}),
        train_dataset=rows,
        eval_dataset=rows[:2],
        data_collator=collate,
        callbacks=[*(callbacks or [DistillationCallback()])],
    )
