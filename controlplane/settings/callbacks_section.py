"""The section `callbacks`: who signs, where callbacks may go, and how long a receiver is tried."""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo, WithJsonSchema, field_validator

from controlplane.core.webhook import Patience, decoded_secret
from controlplane.settings.section import NAMED_SECRET_SCHEMA, Flag, Seconds, Section, Whole, surroundings

_DAY_SECONDS = 86_400.0


def _named_secret(value: object, info: ValidationInfo) -> Any:
    if isinstance(value, dict):
        return surroundings(info).secret(value)
    if isinstance(value, SecretStr):
        return value
    raise ValueError('a secret never stands in the file itself; write {"env": "NAME"} or {"file": "path"}')


def _decodable(value: SecretStr) -> SecretStr:
    decoded_secret(value.get_secret_value())
    return value


class CallbackSecret(Section):
    """A secret that callbacks are signed with."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    """The API key whose callbacks it signs, by that key's name; any other name: see `secrets`."""
    secret: Annotated[
        SecretStr,
        BeforeValidator(_named_secret),
        AfterValidator(_decodable),
        WithJsonSchema(NAMED_SECRET_SCHEMA),
    ]
    """Where it is: `{"env": "NAME"}` or `{"file": "path"}`; as text `whsec_` and 24 to 64 bytes in base64."""


class CallbackSettings(Section):
    """Callbacks: what jobs report to the addresses that their callers named."""

    secrets: tuple[CallbackSecret, ...] = ()
    """Secrets by name. Several of one name all sign, so that a secret can be changed. For callers without one of \
their own: those named `default`, else the one in the file `callback_secret` in `state_dir`, made at the first start."""
    allow_private_addresses: Flag = False
    """true: callbacks may also go to this machine and to local networks (never link-local)."""
    timeout_seconds: Annotated[Seconds, Field(gt=0, le=300)] = 15.0
    """Longest time one delivery may take in all."""
    per_host: Annotated[Whole, Field(ge=1, le=64)] = 4
    """Deliveries to one receiver at the same time."""
    tries: Annotated[Whole, Field(ge=1, le=100)] = 16
    """Tries until a callback is given up; `inferctl callbacks` lists those and sends them again."""
    first_pause_seconds: Annotated[Seconds, Field(gt=0)] = 5.0
    """Pause after the first try that failed; doubles with every further one."""
    longest_pause_seconds: Annotated[Seconds, Field(gt=0)] = _DAY_SECONDS
    """Longest pause between two tries, also where the receiver asks for one."""

    @field_validator("longest_pause_seconds")
    @classmethod
    def _longest_last(cls, longest: float, info: ValidationInfo) -> float:
        first = info.data.get("first_pause_seconds", 0.0)
        if longest < first:
            raise ValueError(f"is less than first_pause_seconds ({first:g}); write at least that")
        return longest

    @property
    def patience(self) -> Patience:
        return Patience(self.first_pause_seconds, self.longest_pause_seconds, self.tries)
