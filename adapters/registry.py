"""Which engine kinds there are: one adapter for each."""

from collections.abc import Mapping
from types import MappingProxyType

from adapters.base import EngineAdapter
from adapters.diffusers import DiffusersAdapter
from adapters.simulated import SimulatedAdapter
from adapters.vllm import VllmAdapter


def make_adapters() -> Mapping[str, EngineAdapter]:
    """Every adapter by its kind, as models.json names it. Read-only."""
    adapters: tuple[EngineAdapter, ...] = (VllmAdapter(), DiffusersAdapter(), SimulatedAdapter())
    return MappingProxyType({adapter.kind: adapter for adapter in adapters})
