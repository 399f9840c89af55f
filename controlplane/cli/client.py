"""Asks a running service over its admin API. Knows addresses, keys and errors; not what the answers mean."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from controlplane.cli.options import DEFAULT_URL
from controlplane.cli.outcome import CannotConnect
from controlplane.errors import ConfigError, InferenceManagerError

CONNECT_TIMEOUT_SECONDS = 3.0
ANSWER_TIMEOUT_SECONDS = 30.0
_NO_KEY = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)


class Refused(InferenceManagerError):
    """The service answered with an error; the message is the service's own."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the service is, and the key to show it."""

    url: str
    key: str | None = field(default=None, repr=False)


def ask(
    address: Address, method: str, path: str, query: Mapping[str, str | int | None] | None = None
) -> dict[str, Any]:
    """One call; the JSON object that comes back.

    Raises CannotConnect, Refused, or ConfigError for an address that is none.
    """
    headers = {"authorization": f"Bearer {address.key}"} if address.key else {}
    timeout = httpx.Timeout(ANSWER_TIMEOUT_SECONDS, connect=CONNECT_TIMEOUT_SECONDS)
    present = {name: value for name, value in (query or {}).items() if value is not None}
    try:
        # The service is on this host or this network: a proxy of the environment would only be in the way.
        with httpx.Client(base_url=address.url, headers=headers, timeout=timeout, trust_env=False) as client:
            return _content(client.request(method, path, params=present), address.url)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as exc:
        raise ConfigError(f'"{address.url}" is no address: {exc}; write one like {DEFAULT_URL}') from exc
    except httpx.TimeoutException as exc:
        raise CannotConnect(f"no answer from {address.url} in time; is it the service, and is it well?") from exc
    except httpx.TransportError as exc:
        remedy = "start the service with `inferctl serve`, or name its address with --url or INFERCTL_URL"
        raise CannotConnect(f"cannot connect to {address.url}: {exc}; {remedy}") from exc


def _content(response: httpx.Response, url: str) -> dict[str, Any]:
    try:
        content = response.json()
    except ValueError:
        content = None
    if response.is_success and isinstance(content, dict):
        return content
    raise Refused(_message(response, content, url))


def _message(response: httpx.Response, content: object, url: str) -> str:
    error = content.get("error") if isinstance(content, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    if not isinstance(message, str):
        return f"{url} answered {response.status_code} in no form that this service uses; is it the right address?"
    remedy = "; give a key with --key or INFERCTL_KEY" if response.status_code in _NO_KEY else ""
    return f"{message}{remedy}"
