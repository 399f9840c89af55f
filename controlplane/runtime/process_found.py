"""What of our replicas runs on this machine now: living trees, matched with the records of their leaders.

A tree without a living recorded leader is what a dead leader, or a start that
the control plane did not survive, left behind.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from controlplane.ports import RunningReplica
from controlplane.runtime.process_files import ReplicaFiles
from controlplane.runtime.process_label import Label
from controlplane.runtime.process_tree import Process, Tree, find_trees


@dataclass(frozen=True, slots=True)
class Found:
    """One tree; `leader` is None when its main process is gone."""

    tree: Tree
    leader: Process | None

    @property
    def replica(self) -> RunningReplica:
        label = self.tree.label
        handle = f"pid {self.leader.pid}" if self.leader is not None else "main process gone"
        return RunningReplica(label.replica_id, label.generation, label.config_hash, label.endpoint, handle)


class Sightings:
    """The processes of one replica, followed from look to look.

    One that hides its label is still known by the look at which a parent of it vouched for it.
    """

    def __init__(self, store_id: str, replica_id: str) -> None:
        self._store_id = store_id
        self._replica_id = replica_id
        self._known: dict[tuple[int, int], Label] = {}

    async def look(self) -> list[Process]:
        """Those that are alive now."""
        found: list[Process] = []
        for tree in await asyncio.to_thread(find_trees, self._store_id, self._known):
            if tree.label.replica_id == self._replica_id:
                found.extend(tree.processes)
                self._known |= {process.identity: tree.label for process in tree.processes}
        return found


def look(state_dir: Path, store_id: str, replica_id: str | None = None) -> list[Found]:
    """Every tree of the store, or of one of its replicas. Blocking."""
    trees = [tree for tree in find_trees(store_id) if replica_id in (None, tree.label.replica_id)]
    return [Found(tree, _leader(tree, state_dir, store_id)) for tree in trees]


def _leader(tree: Tree, state_dir: Path, store_id: str) -> Process | None:
    recorded = ReplicaFiles(state_dir, store_id, tree.label.replica_id).leader()
    if recorded is None or recorded.generation != tree.label.generation:
        return None
    same = (process for process in tree.processes if (process.pid, process.started) == (recorded.pid, recorded.started))
    return next(same, None)
