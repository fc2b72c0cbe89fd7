"""The device that a run is computed on: its name, and the precision that it has."""

import platform
from pathlib import Path

import torch

from sssd.engine.settings import Precision


def name_of(device: torch.device) -> str:
    """The device as its maker calls it; of a CPU also the threads that torch takes."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return str(device)
    name = platform.processor() or platform.machine()
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        name = models[0] if models else name
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' * (threads > 1)}"


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype | None:
    """What autocast computes in; None without it.

    Args:
        precision: "auto" is bf16 on a GPU that computes in it (compute capability 8.0), fp16 on
            one with tensor cores for that alone (7.0), and fp32 elsewhere.
        device: where the run is computed.

    Raises:
        ValueError: bf16 on a GPU that would emulate it.
    """
    on_gpu = device.type == "cuda"
    capability = torch.cuda.get_device_capability(device) if on_gpu else (0, 0)
    if precision == "auto":
        precision = "bf16" if capability >= (8, 0) else "fp16" if capability >= (7, 0) else "fp32"
    elif precision == "bf16" and on_gpu and capability < (8, 0):
        raise ValueError(
            f"--engine.precision is bf16, which {name_of(device)} does not support; use fp16, fp32 "
            "or auto"
        )
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
