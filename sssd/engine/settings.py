"""Settings of the loop: everything that is neither data, nor detector, nor method."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import torch

from sssd.engine.loggers import LoggerName
from sssd.schedules import require_real

CocoEvaluator = Literal["pycocotools", "faster-coco-eval"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
EVALUATIONS = 10  # of a run, where nothing else is said
SHARE = 0.1  # of a run's time that they may take
COST = 0.4  # of looking at an image, the teacher's detections included, where training on it is 1


@dataclass(frozen=True)
class EngineConfig:
    """How the training loop runs."""

    batch_size: int = 16
    """Images per step, over all processes and accumulated parts; the learning rate scales with
    it."""

    accumulate: int = 1
    """Parts into which each process splits its share of a batch, to fit it into memory; the
    learning rate and the number of steps do not depend on it."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum 0.9, or AdamW."""

    backbone_factor: float = 1.0
    """Learning rate of the backbone, relative to all other weights; keep it small with AdamW and
    pretrained weights."""

    weight_decay: float = 1e-4
    """Weight decay of every parameter."""

    clip_value: float | None = 1.0
    """Clip every gradient element to this absolute value (LGD: 1)."""

    clip_norm: float | None = None
    """Clip the norm of the whole gradient to this value."""

    ema_decay: float | None = None
    """Decay of an exponential moving average (EMA) of the weights; if set, the average is what is
    evaluated."""

    precision: Precision = "auto"
    """Data type of autocast; anchors, boxes, losses and distances stay fp32. auto: bf16 on a GPU
    that supports it, fp16 with loss scaling on one with older tensor cores, fp32 elsewhere."""

    channels_last: bool = False
    """Keep images and weights in channels_last memory format."""

    device: str = "auto"
    """"auto" uses a GPU if there is one."""

    deterministic: bool = False
    """Use only deterministic algorithms; slower on a GPU."""

    workers: int = 2
    """Processes that load images, per training process; the results do not depend on it."""

    seed: int = 0
    """Random seed of the initial weights, the image order and the augmentation."""

    log_every: int = 20
    """Log metrics every so many iterations."""

    checkpoint_every: int = 1000
    """Save a checkpoint every so many iterations, before each evaluation, and at the end; the last
    two are kept."""

    evaluate_every: int | None = None
    """Evaluate every so many iterations; 0: only at the end. None: ten times in the run, or less
    often, so that evaluation takes about a tenth of the time."""

    evaluate_with: CocoEvaluator = "faster-coco-eval"
    """COCO evaluator during training: faster-coco-eval gives the same numbers sooner. The final
    numbers always come from pycocotools."""

    patience: int | None = None
    """Stop after this many evaluations without a better AP; None: never."""

    loggers: tuple[LoggerName, ...] = ()
    """Also log metrics to TensorBoard, Weights & Biases or MLflow."""

    def __post_init__(self) -> None:
        """Refuses numbers without meaning."""
        for name, least in (("batch_size", 1), ("accumulate", 1), ("workers", 0), ("log_every", 1),
                            ("checkpoint_every", 1), ("evaluate_every", 0), ("patience", 1),
                            ("seed", 0)):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < least:
                flag = name.replace("_", "-")
                raise ValueError(f"--engine.{flag} is {value}; it must be at least {least}")
        if self.seed >= 2**63:
            raise ValueError(f"--engine.seed is {self.seed}; it must be less than 2^63")
        for name, kind in (("precision", Precision), ("loggers", LoggerName)):
            value = getattr(self, name)
            for one in value if isinstance(value, tuple) else (value,):
                if one not in get_args(kind):
                    known = ", ".join(get_args(kind))
                    raise ValueError(f"--engine.{name} is {one!r}; it must be one of {known}")
        require_real("--engine.backbone-factor", self.backbone_factor)
        require_real("--engine.weight-decay", self.weight_decay)
        off = "; None turns it off"
        require_real("--engine.clip-value", self.clip_value, off, positive=True)
        require_real("--engine.clip-norm", self.clip_norm, off, positive=True)
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"--engine.ema-decay is {self.ema_decay}; it must lie in [0, 1)")

    @property
    def memory_format(self) -> torch.memory_format:
        """That of images and weights."""
        import torch  # seconds, which --help need not

        return torch.channels_last if self.channels_last else torch.contiguous_format

    def require_packages(self) -> None:
        """Refuses loggers whose package is not installed.

        Raises:
            ImportError: names the setting, the package and its extra.
        """
        for name in self.loggers:
            if importlib.util.find_spec(name) is None:
                raise ImportError(
                    f"--engine.loggers {name} needs a package that is not installed: "
                    f"pip install 'sssd[{name}]'"
                )

    def evaluation_interval(self, iterations: int, images: int) -> int:
        """Iterations between two evaluations; 0: only at the end.

        Args:
            iterations: of the whole run.
            images: that an evaluation looks at.
        """
        if self.evaluate_every is not None:
            return self.evaluate_every
        rare = math.ceil(self.evaluation_cost(images) / SHARE)
        return max(math.ceil(iterations / EVALUATIONS), rare)

    def evaluation_cost(self, images: int) -> float:
        """About how many iterations an evaluation on some images costs."""
        return COST * images / self.batch_size

    def part_size(self, processes: int = 1) -> int:
        """Images that one of some processes sees at a time.

        Raises:
            ValueError: the batch cannot be shared equally.
        """
        parts = processes * self.accumulate
        if self.batch_size % parts:
            raise ValueError(
                f"--engine.batch-size is {self.batch_size}, the images of a whole step, and does "
                f"not divide into {parts} equal parts (processes: {processes}, --engine.accumulate "
                f"{self.accumulate}); use a multiple of {parts}"
            )
        return self.batch_size // parts
