"""Requests that cannot be answered as asked, in OpenAI's error shape: status, type, code and the field at fault."""

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from engines.diffusers.errors import EngineError
from engines.diffusers.jobs import Failed, FailureKind
from engines.diffusers.wire import ErrorAnswer, ErrorDetail

CANCELLED_STATUS = 499


class Refused(EngineError):
    """One answer that is not 200. `retry_after_seconds` says that the same request may succeed later."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str,
        code: str,
        *,
        param: str | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_seconds = retry_after_seconds
        self._detail = ErrorDetail(message=message, type=kind, param=param, code=code)

    def content(self) -> bytes:
        """The body of the answer."""
        return ErrorAnswer(error=self._detail).model_dump_json().encode()

    def headers(self) -> dict[str, str]:
        """Beside the body: OpenAI's client retries 409 and 5xx unless told that it is of no use."""
        if self.retry_after_seconds is not None:
            return {"retry-after": str(self.retry_after_seconds)}
        return {"x-should-retry": "false"} if self.status in (409, 500, 507) else {}


def invalid(message: str, param: str | None, code: str = "invalid_value") -> Refused:
    """A field that cannot be used as it is."""
    text = f"{param}: {message}" if param else message
    return Refused(400, text, "invalid_request_error", code, param=param)


def not_found(message: str, code: str, param: str | None = None) -> Refused:
    return Refused(404, message, "not_found_error", code, param=param)


def conflict(message: str, code: str, param: str | None = None) -> Refused:
    return Refused(409, message, "invalid_request_error", code, param=param)


def too_large(limit_mib: int) -> Refused:
    message = f"the body is larger than {limit_mib} MiB; send a smaller image"
    return Refused(413, message, "invalid_request_error", "body_too_large")


def closing() -> Refused:
    message = "the engine is shutting down; send the request again to another one"
    return Refused(503, message, "server_error", "engine_closing", retry_after_seconds=1)


def asleep() -> Refused:
    message = "the upscaler is asleep; wake it up with POST /wake_up"
    return Refused(503, message, "server_error", "engine_asleep", retry_after_seconds=1)


def full(limit: int) -> Refused:
    message = f"{limit} images wait already; try again later"
    return Refused(503, message, "server_error", "engine_full", retry_after_seconds=1)


def dead() -> Refused:
    message = "the pipeline's thread has ended; start the engine again and read its log"
    return Refused(503, message, "server_error", "engine_dead", retry_after_seconds=5)


def cancelled() -> Refused:
    message = "the request was cancelled"
    return Refused(CANCELLED_STATUS, message, "invalid_request_error", "cancelled")


def failed(failure: Failed) -> Refused:
    """What a worker said about a job that it could not finish."""
    match failure.kind:
        case FailureKind.INVALID:
            return invalid(failure.message, failure.param)
        case FailureKind.OUT_OF_MEMORY:
            return Refused(507, failure.message, "server_error", "out_of_memory", param=failure.param)
        case FailureKind.INTERNAL:
            return Refused(500, failure.message, "server_error", "internal_error", param=failure.param)


def unlike(exc: ValidationError) -> Refused:
    """A body that does not have the shape asked for: its first fault, by the field's name."""
    fault = exc.errors(include_url=False, include_context=False)[0]
    if fault["type"] == "json_invalid":
        return invalid(f"the body is not JSON: {fault['msg']}", None, "invalid_json")
    if not fault["loc"]:
        return invalid("the body must be a JSON object", None, "invalid_json")
    return _fault(fault)


def _fault(fault: ErrorDetails) -> Refused:
    param = str(fault["loc"][0])
    if fault["type"] == "missing":
        return invalid("this field is required", param, "missing_required_parameter")
    message = fault["msg"][:1].lower() + fault["msg"][1:]
    return invalid(message, param, "invalid_type" if fault["type"].endswith("_type") else "invalid_value")
