"""Jobs as a caller has them: accepted, looked at, waited for."""

from typing import Any

from service import Service, until
from unified import NAMES, PATHS

REQUESTS = "/api/v1/requests"


async def submit(service: Service, path: str, **fields: Any) -> str:
    """A job's id, the acceptance checked for the names that every answer has."""
    answer = await service.http.post(path, json={"wait": False, **fields})
    assert answer.status_code == 202, answer.text
    told = answer.json()
    assert told.keys() >= NAMES
    assert (told["status"], told["type"]) == ("pending", PATHS[path])
    assert told["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["location"] == f"{REQUESTS}/{told['request_id']}"
    return str(told["request_id"])


async def look(service: Service, request_id: str) -> dict[str, Any]:
    answer = await service.http.get(f"{REQUESTS}/{request_id}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def in_status(service: Service, request_id: str, *statuses: str, timeout: float = 60) -> dict[str, Any]:
    """Wait until it has one of these statuses; its view."""

    async def there() -> dict[str, Any] | None:
        view = await look(service, request_id)
        return view if view["status"] in statuses else None

    found = await until(there, timeout, f"{request_id} {statuses}")
    assert found is not None
    return found


async def ended(service: Service, request_id: str) -> dict[str, Any]:
    return await in_status(service, request_id, "complete", "failed", "cancelled", "expired")


async def result(service: Service, request_id: str, status: int = 200) -> dict[str, Any]:
    answer = await service.http.get(f"{REQUESTS}/{request_id}/result")
    assert answer.status_code == status, answer.text
    return dict(answer.json())


async def done(service: Service, request_id: str) -> dict[str, Any]:
    """The result of a job that must come to a good end."""
    view = await ended(service, request_id)
    assert view["status"] == "complete", view
    return await result(service, request_id)
