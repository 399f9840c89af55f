"""The adapters by their kind."""

import pytest

from adapters.registry import make_adapters


def test_every_adapter_is_found_by_its_own_kind() -> None:
    """The key is the adapter's `kind`, and each call makes a set of its own."""
    adapters = make_adapters()
    assert {kind: adapter.kind for kind, adapter in adapters.items()} == {
        "vllm": "vllm",
        "diffusers": "diffusers",
        "simulated": "simulated",
    }
    assert make_adapters() is not adapters


def test_the_registry_cannot_be_changed() -> None:
    """It is handed to many; none of them can swap an adapter for the others."""
    adapters = make_adapters()
    with pytest.raises(TypeError):
        adapters["vllm"] = adapters["simulated"]  # type: ignore[index]
