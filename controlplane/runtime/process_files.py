"""Where a replica's files lie under the state directory, and the record of its main process.

The record names the leader by pid and start time, written when it runs; all
else about a replica is read from its label. Knows paths, runs nothing.
"""

import hashlib
import json
import os
import shutil
import stat
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from controlplane.errors import RuntimeFailure

SOCKET_PATH_BYTES = 107
_NAME_CHARACTERS = 100


@dataclass(frozen=True, slots=True)
class Leader:
    """A replica's main process, as started."""

    pid: int
    started: int
    generation: int


class ReplicaFiles:
    """Paths and record of one replica. Methods block on the disk; they raise OSError as it comes."""

    def __init__(self, state_dir: Path, store_id: str, replica_id: str) -> None:
        self._store_id = store_id
        self._replica_id = replica_id
        self._run_dir = state_dir / "run"
        name = _file_name(replica_id)
        self._record = self._run_dir / f"{name}.json"
        self.work_dir = state_dir / "work" / f"{name}.d"
        self.log = state_dir / "logs" / f"{name}.log"
        # Short, for engines make unix sockets in their temporary folder.
        self.temporary = Path(tempfile.gettempdir()) / f"im-{_digest(store_id)}-{_digest(replica_id)}"
        self.socket = self._socket(name)

    def prepare(self) -> None:
        """Make an empty working directory, an empty temporary folder and a free place for the socket."""
        self.clear()
        for private in (self._run_dir, self.work_dir):
            private.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.socket.parent != self._run_dir:
            _make_private(self.socket.parent)
        _make_private(self.temporary)

    def record(self, leader: Leader) -> None:
        """Write the record in one piece: a reader sees all of it or none."""
        draft = self._record.with_name(f"{self._record.name}.draft")
        draft.write_text(json.dumps(asdict(leader)), encoding="utf-8")
        draft.replace(self._record)

    def leader(self) -> Leader | None:
        """The recorded leader, alive or not; None when there is no readable record."""
        try:
            return Leader(**json.loads(self._record.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def clear(self) -> None:
        """Remove record, socket, working directory and temporary folder; the log stays for people."""
        self._record.unlink(missing_ok=True)
        self.socket.unlink(missing_ok=True)
        for folder in (self.work_dir, self.temporary):
            if folder.exists():
                shutil.rmtree(folder)

    def _socket(self, name: str) -> Path:
        """Under run/, or where that path is longer than the kernel takes, in a short private directory."""
        path = self._run_dir.absolute() / f"{name}.sock"
        if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
            return path
        return Path(tempfile.gettempdir()) / f"im-{_digest(self._store_id)}" / f"{_digest(self._replica_id)}.sock"


def _file_name(replica_id: str) -> str:
    """A file name of its own for every replica id, whatever characters it has."""
    name = quote(replica_id, safe="").replace(".", "%2E") if replica_id.startswith(".") else quote(replica_id, safe="")
    return name if len(name) <= _NAME_CHARACTERS else f"{name[:_NAME_CHARACTERS]}~{_digest(replica_id)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _make_private(directory: Path) -> None:
    """A directory in the shared temporary folder that nobody else made for us to fall into."""
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise RuntimeFailure(
            f"{directory} is not a private directory of ours: remove it, or use a shorter state directory"
        )
