"""The secrets that callbacks are signed with: the configured ones, else one of the service's own, kept in a file."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from secrets import token_bytes

from controlplane.core.webhook import decoded_secret, encoded_secret
from controlplane.errors import ConfigError

DEFAULT = "default"
_BYTES = 32


class Secrets:
    """`named`: the configured ones. `own`: signs where neither the caller nor `default` has any."""

    def __init__(self, named: Mapping[str, Sequence[bytes]], own: bytes) -> None:
        self._named = named
        self._own = (own,)

    def of(self, name: str | None) -> Sequence[bytes]:
        """Never empty: everything is signed."""
        return self._named.get(name or DEFAULT) or self._named.get(DEFAULT) or self._own


def own_secret(path: Path) -> bytes:
    """The service's own secret; made when the file is missing. Raises ConfigError."""
    try:
        _make(path)
        return decoded_secret(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as exc:
        raise ConfigError(f"cannot use the callbacks' secret {path}: {exc}; remove the file to have a new one") from exc


def _make(path: Path) -> None:
    """Whole or not at all: receivers must not come to know a secret that is lost with the next crash."""
    if path.exists():
        return
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, encoded_secret(token_bytes(_BYTES)).encode() + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    partial.rename(path)
