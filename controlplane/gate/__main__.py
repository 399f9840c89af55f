"""`python -m controlplane.gate`: serve the gate on a unix socket of its own."""

import argparse
import os
import socket
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from controlplane.gate.app import application
from controlplane.gate.rules import Rules

# The Docker engine itself ends no idle connection, so its clients do not expect that theirs goes while they call.
_KEEP_ALIVE_SECONDS = 24 * 3600


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="gate", description="A filter before the Docker socket.")
    parser.add_argument("--docker", default="/var/run/docker.sock", help="the Docker socket")
    parser.add_argument("--listen", required=True, help="the unix socket to serve on")
    parser.add_argument("--mode", type=lambda text: int(text, 8), default=0o660, help="its file mode, octal")
    parser.add_argument("--store", help="the control plane's store id; without it, every managed container passes")
    for name, what in (("image", "pattern"), ("folder", "host path"), ("volume", "name"), ("network", "name")):
        parser.add_argument(f"--{name}", action="append", default=[], help=f"an allowed {name} ({what}); repeat it")
    given = parser.parse_args(arguments)
    rules = Rules(tuple(given.image), tuple(given.folder), tuple(given.volume), tuple(given.network), given.store)
    config = uvicorn.Config(
        application(rules, given.docker),
        log_level="warning",
        timeout_graceful_shutdown=2,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
    )
    with _listening(Path(given.listen), given.mode) as listening:
        uvicorn.Server(config).run(sockets=[listening])


def _listening(path: Path, mode: int) -> socket.socket:
    """Ours and not the server's, which opens its own to everybody. Never wider than `mode`, not even for a moment."""
    path.unlink(missing_ok=True)
    os.umask(0o777 & ~mode)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    return listening


if __name__ == "__main__":
    main()
