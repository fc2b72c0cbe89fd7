"""How much memory a run takes, and whether there is none left."""

import os
import resource
import sys

import torch

GB = 1e9
NO_MEMORY = ("DefaultCPUAllocator", "ALLOC_FAILED", "out of memory")
"""What torch's allocator on a CPU, cuBLAS and cuDNN, and CUDA say in a plain RuntimeError."""


def memory_in_use(device: torch.device) -> float:
    """The most memory that this process has taken so far, in GB: the GPU's, or its own."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / GB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GB


def memory_there(device: torch.device) -> float:
    """The memory of a GPU, or of this machine, in GB."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / GB
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that the GPU or the machine has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in NO_MEMORY)
