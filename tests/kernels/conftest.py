"""The modules that run the CUDA sources on the CPU, for the tests of this folder."""

from types import ModuleType

import pytest

from tests.kernels import host_boxes, host_cuda


@pytest.fixture(scope="session")
def module() -> ModuleType:
    return host_cuda.load_module()


@pytest.fixture
def boxes_module() -> ModuleType:
    """On the machine that the emulator plays unless told."""
    module = host_boxes.load_module()
    module.play()
    return module
