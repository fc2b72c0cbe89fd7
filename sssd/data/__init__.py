"""Detection data: files of any format as one dataset, its check, and batches for training."""

import sssd.extras  # noqa: F401  it comes before what may be missing

# isort: split
from typing import TYPE_CHECKING

from sssd.lazy import names_of

__all__ = [
    "DataError",
    "DemoData",
    "DetectionDataset",
    "Fault",
    "Report",
    "WorkerKilled",
    "check",
    "demo_data",
    "evaluation_loader",
    "read_coco",
    "read_dataset",
    "read_image",
    "read_voc",
    "read_yolo",
    "training_loader",
    "training_transform",
]

if TYPE_CHECKING:
    from sssd.data.augment import training_transform
    from sssd.data.checks import Report, check
    from sssd.data.coco import read_coco
    from sssd.data.dataset import DetectionDataset
    from sssd.data.demo import DemoData, demo_data
    from sssd.data.faults import DataError, Fault, WorkerKilled
    from sssd.data.formats import read_dataset
    from sssd.data.images import read_image
    from sssd.data.loader import evaluation_loader, training_loader
    from sssd.data.voc import read_voc
    from sssd.data.yolo import read_yolo
else:
    __getattr__, __dir__ = names_of(
        globals(),
        {
            "sssd.data.augment": "training_transform",
            "sssd.data.checks": "Report check",
            "sssd.data.coco": "read_coco",
            "sssd.data.dataset": "DetectionDataset",
            "sssd.data.demo": "DemoData demo_data",
            "sssd.data.faults": "DataError Fault WorkerKilled",
            "sssd.data.formats": "read_dataset",
            "sssd.data.images": "read_image",
            "sssd.data.loader": "evaluation_loader training_loader",
            "sssd.data.voc": "read_voc",
            "sssd.data.yolo": "read_yolo",
        },
    )
