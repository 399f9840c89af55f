"""Where an engine listens."""

from __future__ import annotations

import pytest

from adapters.endpoint import Endpoint


def test_endpoint_is_an_address_or_a_path_never_both() -> None:
    """An endpoint names exactly one place, and says it in a form fit for logs."""
    assert str(Endpoint.tcp("127.0.0.1", 8001)) == "http://127.0.0.1:8001"
    assert Endpoint.tcp("::1", 8001).authority == "[::1]:8001"
    assert str(Endpoint.unix("/run/llm-0.sock")) == "unix:/run/llm-0.sock"
    for wrong in [{}, {"host": "a"}, {"port": 1}, {"host": "a", "port": 0}, {"uds": ""}, {"uds": "/x", "port": 1}]:
        with pytest.raises(ValueError, match="an endpoint is"):
            Endpoint(**wrong)  # type: ignore[arg-type]
