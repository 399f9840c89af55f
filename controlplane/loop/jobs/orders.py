"""What may be ordered of a job after it was accepted: another priority, or its end.

The store decides who comes first, whenever an order meets a job that is just being begun or ended.
"""

from dataclasses import dataclass

from controlplane.core.model import Outcome, RequestStatus
from controlplane.loop import rejections
from controlplane.loop.dispatcher import Dispatcher
from controlplane.loop.jobs.endings import Endings
from controlplane.loop.jobs.runner import JobRunner
from controlplane.store.records import RequestAccepted
from controlplane.store.store import Store


@dataclass(frozen=True, slots=True)
class JobOrders:
    """Raise StoreFailure, and then nothing has changed."""

    store: Store
    dispatcher: Dispatcher
    runner: JobRunner
    endings: Endings

    async def cancel(self, row: RequestAccepted) -> bool:
        """End it, waiting or running; True once that is on disk, False when it had ended."""
        why = rejections.cancelled()
        if await self.runner.cancel(row.request_id, why):
            return True
        ended = await self.endings.write_unanswered(row, Outcome.CANCELLED, why)
        self.dispatcher.withdraw(row.request_id)
        return ended

    async def set_priority(self, request_id: str, priority: int) -> bool:
        """Move it in line; False when it had ended. A try that runs goes on as it is."""
        if not await self.store.set_job_priority(request_id, priority):
            return False
        if not self.runner.reprioritise(request_id, priority) and not self.dispatcher.reprioritise(
            request_id, priority
        ):
            await self._enqueue_unread(request_id)
        return True

    async def _enqueue_unread(self, request_id: str) -> None:
        """One that was not read into the line yet could now be missed."""
        view = await self.store.job(request_id)
        if view is not None and view.history.request.status is RequestStatus.PENDING:
            self.dispatcher.enqueue(view.head)
