"""What the launchers ask of CUDA: nothing that waits for the device, for graphs to hold them."""

import re

from .building import ROOT

# None of these waits, allocates, copies or is refused while a stream is captured.
HARMLESS = {
    "cudaDeviceGetAttribute",
    "cudaFuncGetAttributes",
    "cudaFuncSetAttribute",
    "cudaGetDevice",
    "cudaGetErrorString",
    "cudaGetLastError",
    "cudaLaunchKernelEx",
    "cudaOccupancyMaxPotentialClusterSize",
}


def test_launchers_call_nothing_that_waits() -> None:
    called = set()
    for folder in ("kernels", "csrc"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".h", ".cu", ".cuh", ".cpp"):
                called |= set(re.findall(r"\b(cuda[A-Z]\w+)\(", path.read_text()))
    assert "cudaLaunchKernelEx" in called
    assert called <= HARMLESS


def test_every_launch_is_on_the_stream_and_the_device_of_its_tensors() -> None:
    """Each function of the glue that launches kernels guards the device and asks for its stream."""
    launching = 0
    for path in (ROOT / "csrc").glob("*.cpp"):
        for part in re.split(r"\n}\n", path.read_text()):
            for block in re.findall(r"#ifdef SSSD_WITH_CUDA(.*?)#endif", part, re.DOTALL):
                if "cuda_" in block and "throw_if(" in block:
                    launching += 1
                    assert "DeviceGuard" in block, f"{path.name}: {block}"
                    assert "current_stream(" in block, f"{path.name}: {block}"
    assert launching >= 2
