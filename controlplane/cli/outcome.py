"""How a command ends: its answer as text or JSON, its exit code, and errors as one sentence.

Exit codes: 0 done, 1 failed or refused, 2 wrong usage or configuration, 3 no connection.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import orjson
import typer
from rich.console import Console, RenderableType
from rich.markup import escape

from controlplane.errors import ConfigError, InferenceManagerError

# Wide enough that a table never loses columns in a pipe or a log.
_UNBOUND_WIDTH = 400


class ExitCode(IntEnum):
    DONE = 0
    FAILED = 1
    USAGE = 2
    NO_CONNECTION = 3


class CannotConnect(InferenceManagerError):
    """No service answers at the address; the message says where and what to try."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Where a command puts what it found."""

    as_json: bool

    def give(self, payload: Mapping[str, Any], *shown: RenderableType) -> None:
        """Print the payload as JSON, or else what a person reads."""
        if self.as_json:
            sys.stdout.write(orjson.dumps(payload, option=orjson.OPT_INDENT_2).decode() + "\n")
            return
        out = console()
        for part in shown:
            out.print(part)

    def fail(self, error: InferenceManagerError, code: ExitCode) -> typer.Exit:
        """Print the error; the result is to be raised."""
        if self.as_json:
            self.give({"error": {"message": str(error), "kind": code.name.lower()}})
        else:
            console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        return typer.Exit(code)


def console(*, stderr: bool = False) -> Console:
    """A console on this stream; in a pipe it does not cut lines."""
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, width=None if terminal else _UNBOUND_WIDTH)


@contextmanager
def answering(as_json: bool) -> Iterator[Answer]:
    """Turns every expected failure of the commands within into its message and exit code."""
    answer = Answer(as_json)
    try:
        yield answer
    except CannotConnect as exc:
        raise answer.fail(exc, ExitCode.NO_CONNECTION) from exc
    except ConfigError as exc:
        raise answer.fail(exc, ExitCode.USAGE) from exc
    except InferenceManagerError as exc:
        raise answer.fail(exc, ExitCode.FAILED) from exc
