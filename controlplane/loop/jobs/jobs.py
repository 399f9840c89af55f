"""All parts of the jobs, put together; what the rest of the service is given of them."""

from dataclasses import dataclass
from typing import Self

from controlplane.loop.admission import Admission
from controlplane.loop.exchange import Surroundings
from controlplane.loop.jobs.board import Board
from controlplane.loop.jobs.door import JobDoor
from controlplane.loop.jobs.endings import Endings
from controlplane.loop.jobs.orders import JobOrders
from controlplane.loop.jobs.recovery import JobRecovery
from controlplane.loop.jobs.runner import JobRunner, RunnerParts
from controlplane.loop.prepared import Prepare
from controlplane.loop.telemetry import Telemetry
from controlplane.loop.world import World
from controlplane.media.artifacts import Artifacts
from controlplane.store.store import Store


@dataclass(frozen=True, slots=True)
class JobSurroundings:
    """What jobs need of the service."""

    around: Surroundings
    admission: Admission
    store: Store
    artifacts: Artifacts
    telemetry: Telemetry
    world: World


@dataclass(frozen=True, slots=True)
class Jobs:
    """Accepting, running, ordering and finding jobs again."""

    door: JobDoor
    runner: JobRunner
    orders: JobOrders
    board: Board
    recovery: JobRecovery

    @classmethod
    def make(cls, given: JobSurroundings, prepare: Prepare) -> Self:
        """Also makes the dispatcher grant to them what waits without a ticket."""
        store, dispatcher, artifacts, board = given.store, given.around.dispatcher, given.artifacts, Board()
        endings = Endings(store, board, artifacts, given.telemetry, given.around.clock)
        runner = JobRunner(
            RunnerParts(
                store=store,
                dispatcher=dispatcher,
                admission=given.admission,
                around=given.around,
                artifacts=artifacts,
                endings=endings,
                board=board,
                prepare=prepare,
            )
        )
        dispatcher.jobs = runner
        return cls(
            door=JobDoor(given.admission, store, dispatcher, artifacts),
            runner=runner,
            orders=JobOrders(store, dispatcher, runner, endings),
            board=board,
            recovery=JobRecovery(given.world, store, dispatcher, endings, artifacts),
        )
