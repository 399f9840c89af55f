"""`python -m controlplane.gate`: serve the gate on a unix socket of its own."""

import argparse
import os
from collections.abc import Sequence

import uvicorn

from controlplane.gate.app import application
from controlplane.gate.rules import Rules


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
    os.umask(0o777 & ~given.mode)
    config = uvicorn.Config(
        application(rules, given.docker), uds=given.listen, log_level="warning", timeout_graceful_shutdown=2
    )
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main()
