"""How a picture, a path or an address that a caller gave is refused: as OpenAI's 400 that names the field."""

from adapters.base import NormalError
from controlplane.errors import RequestRejected


def refused(param: str, message: str, code: str = "invalid_image") -> RequestRejected:
    return RequestRejected(NormalError(400, message, "invalid_request_error", param, code))


def missing(message: str) -> RequestRejected:
    return RequestRejected(NormalError(404, message, "not_found_error", None, "not_found"))
