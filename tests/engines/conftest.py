"""What the engine's tests run under: warnings are errors here too, but for the libraries' own, named one by one."""

import os

import pytest

# Said while these libraries are imported, of each other and of themselves; none is about what we call.
_OF_THE_LIBRARIES = (r"ignore:`torch\.jit\.script` is deprecated:DeprecationWarning",)

# Two tests at once on two cores: OpenMP's threads would spin at each other's barriers.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_configure(config: pytest.Config) -> None:
    for line in _OF_THE_LIBRARIES:
        config.addinivalue_line("filterwarnings", line)
