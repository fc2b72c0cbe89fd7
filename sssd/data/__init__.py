"""Detection data: files of any format as one dataset, its check, and batches for training."""

from sssd.data.augment import training_transform
from sssd.data.coco import read_coco
from sssd.data.dataset import DetectionDataset
from sssd.data.demo import DemoData, demo_data
from sssd.data.faults import DataError, Fault
from sssd.data.loader import evaluation_loader, training_loader

__all__ = [
    "DataError",
    "DemoData",
    "DetectionDataset",
    "Fault",
    "demo_data",
    "evaluation_loader",
    "read_coco",
    "training_loader",
    "training_transform",
]
