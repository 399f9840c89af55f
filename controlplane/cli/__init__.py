"""`inferctl`: starts and checks the service, fetches what it needs, and asks a running one."""

from controlplane.cli.app import main

__all__ = ["main"]
