"""The module that runs the CUDA sources on the CPU, for the tests of this folder."""

from types import ModuleType

import pytest

from .host_cuda import load_module


@pytest.fixture(scope="session")
def module() -> ModuleType:
    return load_module()
