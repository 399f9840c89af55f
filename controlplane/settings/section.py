"""What every part of a configuration file shares: strictness, paths and secrets.

Validation happens against a `Surroundings` passed as pydantic's context; the
file's own folder and the environment enter here and nowhere else.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, Strict, ValidationInfo, WithJsonSchema

MIN_KEY_LENGTH = 8
SHA256_HEX_LENGTH = 64

NAMED_SECRET_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"env": {"type": "string"}, "file": {"type": "string"}},
    "minProperties": 1,
    "maxProperties": 1,
    "additionalProperties": False,
}


class Section(BaseModel):
    """An object of a configuration file: frozen, no unknown keys, no silent conversions."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where a file stands: relative paths start at `folder`, secrets are looked up in `environ`."""

    folder: Path
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)

    def path(self, text: str) -> Path:
        return self.folder / Path(text).expanduser()

    def secret(self, source: Mapping[str, Any]) -> str:
        """The secret that `{"env": NAME}` or `{"file": path}` names. Raises ValueError."""
        match dict(source):
            case {"env": str(name), **rest} if not rest:
                return self._from_environ(name)
            case {"file": str(path), **rest} if not rest:
                return self._from_file(path)
        raise ValueError('write {"env": "NAME"} or {"file": "path"}')

    def _from_environ(self, name: str) -> str:
        value = self.environ.get(name, "")
        if not value:
            raise ValueError(f"the environment variable {name} is not set or empty; export it before the start")
        return value

    def _from_file(self, text: str) -> str:
        path = self.path(text)
        try:
            value = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "not UTF-8 text"
            raise ValueError(f"cannot read {path}: {reason}; put the secret there as text") from exc
        if not value:
            raise ValueError(f"{path} is empty; put the secret there as text")
        return value


def surroundings(info: ValidationInfo) -> Surroundings:
    """The context of this validation; without one, paths start at the working folder and no variable is known."""
    return info.context if isinstance(info.context, Surroundings) else Surroundings(Path())


def _located(value: object, info: ValidationInfo) -> object:
    if not isinstance(value, str | Path):
        return value
    if not str(value).strip():
        raise ValueError("an empty path; leave the key out or name a path")
    return surroundings(info).path(str(value))


def _environment_value(value: object, info: ValidationInfo) -> object:
    return surroundings(info).secret(value) if isinstance(value, dict) else value


def _key_hash(value: object, info: ValidationInfo) -> str:
    """Hash at once, so that no key outlives the parsing of its file."""
    if not isinstance(value, dict):
        raise ValueError('a key never stands in the file itself; write {"env": "NAME"} or {"file": "path"}')
    if "sha256" in value:
        return _given_hash(value)
    secret = surroundings(info).secret(value)
    if len(secret) < MIN_KEY_LENGTH:
        raise ValueError(f"the key has fewer than {MIN_KEY_LENGTH} characters; make a longer one: openssl rand -hex 24")
    return hashlib.sha256(secret.encode()).hexdigest()


def _given_hash(value: Mapping[str, Any]) -> str:
    text = value["sha256"]
    hexadecimal = (
        isinstance(text, str) and len(text) == SHA256_HEX_LENGTH and set(text.lower()) <= set("0123456789abcdef")
    )
    if len(value) != 1 or not hexadecimal:
        raise ValueError('write {"sha256": "…"} with the 64 hex digits of: printf %s "$KEY" | sha256sum')
    return str(text).lower()


Whole = Annotated[int, Strict()]
Flag = Annotated[bool, Strict()]
Seconds = Annotated[float, Strict(), Field(ge=0)]
Mebibytes = Annotated[int, Strict(), Field(ge=0)]
FilePath = Annotated[Path, BeforeValidator(_located), WithJsonSchema({"type": "string"})]
EnvironmentValue = Annotated[
    SecretStr,
    BeforeValidator(_environment_value),
    WithJsonSchema({"anyOf": [{"type": "string"}, NAMED_SECRET_SCHEMA]}),
]
KeyHash = Annotated[
    str,
    BeforeValidator(_key_hash),
    WithJsonSchema(
        NAMED_SECRET_SCHEMA | {"properties": NAMED_SECRET_SCHEMA["properties"] | {"sha256": {"type": "string"}}},
    ),
]
