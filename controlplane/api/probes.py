"""/health, /ready and /metrics: for whoever supervises the service itself."""

from fastapi import APIRouter, Response
from pydantic import BaseModel

from controlplane.api.admin.views import device_views
from controlplane.api.context import Context
from controlplane.api.errors import unavailable

_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class Health(BaseModel):
    status: str
    version: str


class Readiness(BaseModel):
    status: str
    models: int
    waiting: int


def probes_router(context: Context) -> APIRouter:
    router = APIRouter(tags=["probes"])
    world, telemetry = context.world, context.telemetry

    @router.get("/health")
    async def health() -> Health:
        """The process lives."""
        return Health(status="ok", version=context.version)

    @router.get("/ready")
    async def ready() -> Readiness:
        """It takes work: 503 while stopping, or while the store cannot commit."""
        if not context.admission.is_open:
            raise unavailable("the service is stopping", 5.0)
        if not context.store.healthy:
            raise unavailable(f"the store cannot commit: {context.store.failure}", 5.0)
        return Readiness(status="ready", models=len(world.models), waiting=len(world.queue))

    @router.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Prometheus text format."""
        for model_id in world.models:
            telemetry.waiting.labels(model_id).set(world.queue.waiting(model_id))
            running = sum(slots.leases for slots in world.slots.values() if slots.model_id == model_id)
            telemetry.running.labels(model_id).set(running)
        for device in device_views(world):
            telemetry.budget.labels(device.device_id).set(device.budget_mib)
            telemetry.booked.labels(device.device_id).set(device.booked_mib)
            telemetry.measured.labels(device.device_id).set(device.measured_mib)
        telemetry.journal_dropped.set(context.store.journal_dropped)
        return Response(telemetry.exposition(), media_type=_PROMETHEUS)

    return router
