"""Commands that ask a running service: what it holds, what waits and why, and load, unload, pin, unpin."""

from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import RenderableType
from rich.text import Text

from controlplane.cli import views
from controlplane.cli.client import Address, ask
from controlplane.cli.options import DEFAULT_URL, JsonOption, KeyOption, UrlOption
from controlplane.cli.outcome import answering

Query = dict[str, str | int | None]
View = Callable[[dict[str, Any]], RenderableType]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="Name or alias of a model.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(status)
    app.command()(replicas)
    app.command()(devices)
    app.command()(requests)
    app.command()(explain)
    for verb, meaning in _VERBS.items():
        app.command(verb, help=meaning)(_model_command(verb))


def status(url: UrlOption = DEFAULT_URL, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Show devices and models of the running service."""
    address = Address(url, key)
    with answering(as_json) as answer:
        devices = ask(address, "GET", "/admin/devices")["devices"]
        models = ask(address, "GET", "/admin/models")["models"]
        found = {"url": url, "devices": devices, "models": models}
        answer.give(found, views.devices(found), "", views.models(found), "", views.totals(found))


def models(url: UrlOption = DEFAULT_URL, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Show the models of the running service."""
    _show(Address(url, key), "/admin/models", views.models, as_json=as_json)


def replicas(url: UrlOption = DEFAULT_URL, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Show the replicas: running engines and those that failed."""
    _show(Address(url, key), "/admin/replicas", views.replicas, as_json=as_json)


def devices(url: UrlOption = DEFAULT_URL, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Show the devices with their ledger: budget, booked, measured, free."""
    _show(Address(url, key), "/admin/devices", views.devices, as_json=as_json)


def requests(  # noqa: PLR0913 - one parameter per option
    status: Annotated[str | None, typer.Option(help="Only these: pending, processing, complete, failed …")] = None,
    model: Annotated[str | None, typer.Option(help="Only those of this model.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most to show.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="Go on where an earlier answer ended.")] = None,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show requests, newest first."""
    query: Query = {"status": status, "model": model, "limit": limit, "cursor": cursor}
    _show(Address(url, key), "/admin/requests", views.requests, query, as_json=as_json)


def explain(
    subject: Annotated[str, typer.Argument(metavar="MODEL|REQUEST", help="A model's name or a request's id.")],
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say why a request waits, or why a model is where it is."""
    address = Address(url, key)
    with answering(as_json) as answer:
        listed = ask(address, "GET", "/admin/models")["models"]
        names = {name for model in listed for name in (model["model_id"], *model["aliases"])}
        by = "model" if subject in names else "request_id"
        found = ask(address, "GET", "/admin/explain", {by: subject})
        answer.give(found, views.explanation(found))


_VERBS = {
    "load": "Load a model now, without waiting for a request.",
    "unload": "Unload a model once its requests are done.",
    "pin": "Never evict a model to make room.",
    "unpin": "Let a model be evicted again.",
}


def _model_command(verb: str) -> Callable[..., None]:
    def command(
        model: ModelArgument, url: UrlOption = DEFAULT_URL, key: KeyOption = None, as_json: JsonOption = False
    ) -> None:
        with answering(as_json) as answer:
            found = ask(Address(url, key), "POST", f"/admin/models/{quote(model)}/{verb}")
            answer.give(found, Text(views.model_sentence(found)))

    return command


def _show(address: Address, path: str, view: View, query: Query | None = None, *, as_json: bool) -> None:
    with answering(as_json) as answer:
        found = ask(address, "GET", path, query)
        answer.give(found, view(found))
