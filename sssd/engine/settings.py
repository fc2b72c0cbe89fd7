"""Settings of the loop: everything that is neither data, nor detector, nor method."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class EngineConfig:
    """How the training loop runs."""

    batch_size: int = 16
    """Images a step, over all processes and accumulated parts; the learning rate follows it."""

    accumulate: int = 1
    """Parts that each process works through one after the other, to fit a batch into its memory;
    the learning rate and the number of steps do not depend on it."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum 0.9, or AdamW."""

    backbone_factor: float = 1.0
    """Learning rate of the backbone as a fraction of the others'; small where AdamW meets
    pretrained weights."""

    weight_decay: float = 1e-4
    """Weight decay of every parameter."""

    clip_value: float | None = 1.0
    """Largest absolute value of a gradient's element (LGD clips by value at 1)."""

    clip_norm: float | None = None
    """Largest norm of the whole gradient."""

    ema_decay: float | None = None
    """Decay of an exponential moving average of the weights, which is then what is evaluated."""

    bf16: bool = False
    """Autocast to bfloat16; anchors, boxes and losses stay fp32."""

    channels_last: bool = False
    """Keep images and weights in channels_last memory format."""

    device: str = "auto"
    """"auto" takes a GPU where there is one."""

    deterministic: bool = False
    """Only algorithms that repeat to the last bit; slower on a GPU."""

    workers: int = 2
    """Processes that load images, for each that trains; the results do not depend on it."""

    seed: int = 0
    """Seed of weights, order and augmentation."""

    log_every: int = 20
    """Iterations between two rows of metrics."""

    checkpoint_every: int = 1000
    """Iterations between two checkpoints; the last two are kept, and one is written at the end."""

    evaluate_every: int = 0
    """Iterations between two evaluations; 0: only at the end."""

    evaluate_with: Literal["pycocotools", "faster-coco-eval"] = "pycocotools"
    """What evaluates on the way; faster-coco-eval gives the same numbers sooner. Those of the end
    are pycocotools' in any case."""

    tensorboard: bool = False
    """Write the metrics for TensorBoard too."""

    def __post_init__(self) -> None:
        """Refuses numbers without meaning."""
        for name, least in (("batch_size", 1), ("accumulate", 1), ("workers", 0), ("log_every", 1),
                            ("checkpoint_every", 1), ("evaluate_every", 0)):  # fmt: skip
            if getattr(self, name) < least:
                flag = name.replace("_", "-")
                raise ValueError(f"--engine.{flag} is {getattr(self, name)}; at least {least}")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"--engine.ema-decay is {self.ema_decay}; it must lie in [0, 1)")

    @property
    def memory_format(self) -> torch.memory_format:
        """That of images and weights."""
        import torch  # seconds, which --help need not

        return torch.channels_last if self.channels_last else torch.contiguous_format

    def require_packages(self) -> None:
        """Refuses settings that need a package which is not installed.

        Raises:
            ImportError: names the setting, the package and its extra.
        """
        needs = {
            "--engine.tensorboard": (self.tensorboard, "tensorboard", "tensorboard"),
            "--engine.evaluate-with faster-coco-eval": (
                self.evaluate_with == "faster-coco-eval", "faster_coco_eval", "train",
            ),
        }  # fmt: skip
        for flag, (wanted, module, extra) in needs.items():
            if wanted and importlib.util.find_spec(module) is None:
                raise ImportError(
                    f"{flag} needs a package that is not installed: pip install 'sssd[{extra}]'"
                )

    def part_size(self, processes: int = 1) -> int:
        """Images that one of some processes sees at a time.

        Raises:
            ValueError: the batch cannot be shared equally.
        """
        parts = processes * self.accumulate
        if self.batch_size % parts:
            raise ValueError(
                f"--engine.batch-size is {self.batch_size}, all images of a step, and cannot be "
                f"shared equally by {parts} parts (processes: {processes}, --engine.accumulate "
                f"{self.accumulate}); take a multiple of {parts}"
            )
        return self.batch_size // parts
