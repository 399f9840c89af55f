"""Whether an address is fit for callbacks, as far as can be said without looking its name up. Pure."""

from ipaddress import ip_address

import httpx

from controlplane.loop import rejections
from controlplane.media.addresses import may_be_called
from controlplane.media.outbound import Unreachable, checked_port

PARAM = "callback_url"
SETTING = "callbacks.allow_private_addresses"
_LONGEST = 2048


def checked_callback_url(given: object, *, allow_private: bool) -> str:
    """The address, as a text that is fit to be kept. Raises RequestRejected.

    A name is judged when it is called, each time anew; a number is judged here already.
    """
    if not isinstance(given, str) or not given or len(given) > _LONGEST:
        raise rejections.invalid(
            f"{PARAM} must be an http:// or https:// address of at most {_LONGEST} characters", PARAM, "invalid_value"
        )
    try:
        url = httpx.URL(given)
        checked_port(url)
    except (httpx.InvalidURL, Unreachable) as exc:
        raise rejections.invalid(f"{PARAM} cannot be called: {exc}", PARAM, "invalid_value") from exc
    if _is_number(url.host) and not may_be_called(url.host, private=allow_private):
        raise rejections.invalid(f"{PARAM}: {url.host} is not a public address ({SETTING})", PARAM, "invalid_value")
    return given


def _is_number(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
