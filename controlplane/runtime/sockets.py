"""Free TCP ports for engines. The port is free when handed out; the engine binds it a moment later."""

import socket
from collections.abc import Collection


def free_port(host: str, taken: Collection[int]) -> int:
    """A port on `host` that nobody listens on and that is not in `taken`. Raises OSError when the host has none."""
    refused = []
    try:
        while True:
            probe = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
            refused.append(probe)
            if (port := int(probe.getsockname()[1])) not in taken:
                return port
    finally:
        for probe in refused:
            probe.close()
