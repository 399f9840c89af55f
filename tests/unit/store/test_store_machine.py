"""The store against a plain dict, over random commits, stale ones, deletions and restarts."""

import asyncio
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from store_rows import ManualClock, replica

from controlplane.core.model import Intent, ReplicaState
from controlplane.store.database import Place
from controlplane.store.errors import StaleWrite
from controlplane.store.records import EventDraft, ReplicaChange, ReplicaRecord
from controlplane.store.store import Store
from tests.fakes.postgres_server import Server

_names = st.sampled_from(["a", "b", "c", "d"])
_changes = st.builds(
    lambda name, generation, expected, state, mib: ReplicaChange(
        replica(name, generation, state=state, reserved_mib=mib), expected, EventDraft("moved")
    ),
    _names,
    st.integers(1, 3),
    st.sampled_from([None, 1, 2, 3]),
    st.sampled_from(ReplicaState),
    st.none() | st.integers(0, 9),
)
_intents = st.builds(Intent, pinned=st.none() | st.booleans(), load_since=st.none() | st.floats(0, 9))


class StoreMachine(RuleBasedStateMachine):
    """Every operation is done to both; after each, both must say the same."""

    def __init__(self) -> None:
        super().__init__()
        self.lent = ExitStack()
        self.place = self.borrow()
        self.loop = asyncio.Runner()
        self.rows: dict[str, ReplicaRecord] = {}
        self.intents: dict[str, Intent] = {}
        self.events = 0

    def borrow(self) -> Place:
        """An empty place for one example's store."""
        return Path(self.lent.enter_context(tempfile.TemporaryDirectory())) / "store.db"

    @initialize()
    def open(self) -> None:
        opening = Store.open(self.place, holder="the machine", clock=ManualClock())
        self.store = self.loop.run(opening)

    def teardown(self) -> None:
        self.loop.run(self.store.close())
        self.loop.close()
        self.lent.close()

    @rule(changes=st.lists(_changes, max_size=3))
    def commit(self, changes: list[ReplicaChange]) -> None:
        self._commit(changes)

    @rule(names=st.lists(_names, unique=True, max_size=3), state=st.sampled_from(ReplicaState))
    def commit_what_fits(self, names: list[str], state: ReplicaState) -> None:
        known = [(name, self.rows.get(name)) for name in names]
        self._commit(
            [
                ReplicaChange(replace(row, state=state, generation=row.generation + 1), row.generation)
                if row
                else ReplicaChange(replica(name, state=state), None)
                for name, row in known
            ]
        )

    @rule(name=_names, generation=st.integers(1, 4))
    def delete(self, name: str, generation: int) -> None:
        row = self.rows.get(name)
        try:
            self.loop.run(self.store.delete_replica(name, generation, EventDraft("removed")))
        except StaleWrite:
            assert row is None or row.generation != generation
        else:
            assert row is not None
            assert row.generation == generation
            del self.rows[name]
            self.events += 1

    @rule(name=_names, intent=_intents)
    def set_intent(self, name: str, intent: Intent) -> None:
        self.loop.run(self.store.set_intent(name, intent))
        self.intents.pop(name, None)
        if intent != Intent():
            self.intents[name] = intent

    @rule()
    def restart(self) -> None:
        self.loop.run(self.store.close())
        self.open()

    @invariant()
    def agree(self) -> None:
        assert self.loop.run(self.store.replicas()) == [self.rows[name] for name in sorted(self.rows)]
        assert self.loop.run(self.store.intents()) == self.intents
        assert len(self.loop.run(self.store.events(limit=10_000))) == self.events

    def _commit(self, changes: list[ReplicaChange]) -> None:
        after, fits = dict(self.rows), True
        for change in changes:
            found = after.get(change.record.replica_id)
            fits = fits and (found.generation if found else None) == change.expected_generation
            after[change.record.replica_id] = change.record
        try:
            self.loop.run(self.store.commit_replicas(changes))
        except StaleWrite:
            assert not fits
        else:
            assert fits
            self.rows = after
            self.events += sum(change.event is not None for change in changes)


class PostgresMachine(StoreMachine):
    """The same on the other database."""

    server: ClassVar[Server]

    def borrow(self) -> Place:
        return self.lent.enter_context(self.server.database())


@pytest.fixture(scope="session", autouse=True)
def _machines_server(server: Server) -> None:
    """Machines cannot ask for fixtures themselves."""
    PostgresMachine.server = server


# A rule waits for the disk, so how long an example takes says nothing.
StoreMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
PostgresMachine.TestCase.settings = settings(max_examples=10, stateful_step_count=25, deadline=None)


class TestStoreMachine(StoreMachine.TestCase):
    """Committed means readable, refused means untouched, and a restart changes nothing."""


class TestPostgresMachine(PostgresMachine.TestCase):
    """Committed means readable, refused means untouched, and a restart changes nothing."""
