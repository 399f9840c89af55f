"""`inferctl callbacks`: those that were given up or still wait, and sending them again."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal
from urllib.parse import quote

import typer

from controlplane.cli import views
from controlplane.cli.client import Address, ask
from controlplane.cli.options import DEFAULT_URL, JsonOption, KeyOption, UrlOption
from controlplane.cli.outcome import answering
from controlplane.errors import ConfigError

app = typer.Typer(no_args_is_help=True, help="Callbacks of jobs: list those that were given up, send them again.")

_PAGE = 1000

State = Annotated[Literal["dead", "pending", "delivered"], typer.Option(help="Only these; dead: given up.")]


@app.command("list")
def list_callbacks(
    state: State = "dead",
    limit: Annotated[int, typer.Option(min=1, max=_PAGE, help="Most to show.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="Go on where an earlier answer ended.")] = None,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show callbacks, newest first."""
    with answering(as_json) as answer:
        query: dict[str, str | int | None] = {"state": state, "limit": limit, "cursor": cursor}
        found = ask(Address(url, key), "GET", "/admin/callbacks", query)
        answer.give(found, views.callbacks(found))


@app.command()
def resend(
    request_ids: Annotated[list[str] | None, typer.Argument(metavar="[REQUEST]...", help="Whose callbacks.")] = None,
    all_dead: Annotated[bool, typer.Option("--all", help="All that were given up.")] = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send callbacks again that were given up."""
    address = Address(url, key)
    with answering(as_json) as answer:
        if bool(request_ids) == all_dead:
            raise ConfigError("name the requests whose callbacks are to be sent again, or give --all")
        wanted = request_ids or [each["request_id"] for each in _dead(address)]
        sent = [ask(address, "POST", f"/admin/callbacks/{quote(each, safe='')}/resend") for each in wanted]
        answer.give({"callbacks": sent}, f"{len(sent)} callbacks are sent again")


def _dead(address: Address) -> Iterator[dict[str, Any]]:
    cursor: str | None = None
    while True:
        found = ask(address, "GET", "/admin/callbacks", {"state": "dead", "limit": _PAGE, "cursor": cursor})
        yield from found["callbacks"]
        cursor = found["next_cursor"]
        if cursor is None:
            return
