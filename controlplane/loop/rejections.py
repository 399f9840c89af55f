"""The refusals that callers can get, each with its status, type, code and remedy in one place."""

from difflib import get_close_matches

from adapters.base import NormalError
from controlplane.errors import RequestRejected

_INVALID = "invalid_request_error"
_SERVER = "server_error"
_LONGEST_NAME = 128


def invalid(message: str, param: str | None = None, code: str | None = None, status: int = 400) -> RequestRejected:
    """The caller has to change the request; `param` names the field."""
    return RequestRejected(NormalError(status, message, _INVALID, param, code))


def unknown_model(name: str, known: list[str]) -> RequestRejected:
    # Finding close matches takes time that grows with the name, and no model's name is longer than 96.
    name = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."
    close = get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(known[:20]) or 'none'}"
    return RequestRejected(
        NormalError(404, f"the model {name!r} does not exist; {hint}", "not_found_error", "model", "model_not_found")
    )


def never_fits(model_id: str, need_mib: int, largest_mib: int) -> RequestRejected:
    message = (
        f"{model_id} needs {need_mib} MiB and the largest device budget is {largest_mib} MiB; "
        "lower vram_required_mb or raise devices.budgets_mib"
    )
    return RequestRejected(NormalError(503, message, _SERVER, "model", "model_never_fits"))


def queue_full(waiting: int, limit: int, retry_after_seconds: float) -> RequestRejected:
    message = f"{waiting} requests are waiting and {limit} may; try again in {retry_after_seconds:.0f} s"
    return RequestRejected(NormalError(429, message, "rate_limit_error", None, "queue_full"), retry_after_seconds)


def model_failing(model_id: str, reason: str, retry_after_seconds: float | None) -> RequestRejected:
    again = "" if retry_after_seconds is None else f"; the next try is in {retry_after_seconds:.0f} s"
    message = f"{model_id} cannot be started: {reason}{again}"
    return RequestRejected(NormalError(503, message, _SERVER, "model", "model_failed"), retry_after_seconds)


def expired(waited_seconds: float, sentence: str) -> RequestRejected:
    message = f"no slot came free within {waited_seconds:.0f} s: {sentence}"
    return RequestRejected(NormalError(503, message, _SERVER, None, "deadline_exceeded"), 5.0)


def closing() -> RequestRejected:
    message = "the service is stopping; try again in a moment"
    return RequestRejected(NormalError(503, message, _SERVER, None, "service_stopping"), 5.0)


def engine_lost(message: str) -> RequestRejected:
    return RequestRejected(NormalError(502, message, _SERVER, None, "engine_died", retryable=True), 2.0)


def aborted(message: str) -> RequestRejected:
    return RequestRejected(NormalError(502, message, _SERVER, None, "engine_aborted", retryable=True), 2.0)


def model_removed(model_id: str) -> RequestRejected:
    message = f"the model {model_id!r} was removed while the request waited"
    return RequestRejected(NormalError(404, message, "not_found_error", "model", "model_not_found"))


def cancelled() -> RequestRejected:
    return RequestRejected(NormalError(499, "the request was cancelled", "invalid_request_error", None, "cancelled"))


def broken() -> RequestRejected:
    message = "the service failed on this request; its log tells why"
    return RequestRejected(NormalError(500, message, _SERVER, None, "internal_error"))


def interrupted_for_good(times: int) -> RequestRejected:
    message = f"given up: engine or service ended {times} times while this request ran, so it may be what ends them"
    return RequestRejected(NormalError(500, message, _SERVER, None, "interrupted_too_often"))
