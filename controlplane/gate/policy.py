"""Which of the Docker Engine's requests may pass: a table of paths, and what each has to prove. Pure."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from controlplane.gate.creation import judge_creation, judge_network
from controlplane.gate.rules import Rules

_VERSION = re.compile(r"^/v1\.\d{1,3}(?=/)")
_ID = r"(?P<id>[A-Za-z0-9][A-Za-z0-9_.-]{0,127})"
_OF_CONTAINERS = {
    "GET": re.compile(rf"^/containers/{_ID}/(json|logs|stats|top)$"),
    "POST": re.compile(rf"^/containers/{_ID}/(start|stop|kill|wait)$"),
    "DELETE": re.compile(rf"^/containers/{_ID}$"),
}
_PLAIN = {
    ("HEAD", "/_ping"),
    ("GET", "/_ping"),
    ("GET", "/version"),
    ("GET", "/info"),
    ("GET", "/images/json"),
}
_LISTED = {("GET", "/containers/json"), ("GET", "/events")}
_IMAGE = re.compile(r"^/images/(?P<name>.+)/json$")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, as far as it decides; `path` without a query, still with the version."""

    method: str
    path: str
    query: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether it passes. `container`: only if this one turns out to be the control plane's."""

    refusal: str | None = None
    container: str | None = None


def judge(asked: Asked, rules: Rules) -> Verdict:
    """Everything that no rule lets through is refused."""
    path = _VERSION.sub("", unquote(asked.path))
    if "//" in path or "/../" in path or path.endswith("/.."):
        return Verdict(refusal=f"{asked.path} is not a plain path")
    if (asked.method, path) in _PLAIN:
        return Verdict()
    if (asked.method, path) in _LISTED:
        return Verdict(refusal=_unfiltered(asked.query, rules))
    if match := _matched(asked.method, path):
        return Verdict(container=match["id"])
    return Verdict(refusal=_judge_rest(asked, path, rules))


def _matched(method: str, path: str) -> re.Match[str] | None:
    pattern = _OF_CONTAINERS.get(method)
    return pattern.match(path) if pattern else None


def _judge_rest(asked: Asked, path: str, rules: Rules) -> str | None:
    if (asked.method, path) == ("POST", "/containers/create"):
        return _judge_creation(asked.body, rules, judge_creation)
    if (asked.method, path) == ("POST", "/networks/create"):
        return _judge_creation(asked.body, rules, judge_network)
    if (asked.method, path) == ("POST", "/images/create"):
        return _judge_pull(asked.query, rules)
    if asked.method == "GET" and (match := _IMAGE.match(path)):
        return None if rules.allows_image(match["name"]) else f"image {match['name']} is not allowed"
    return f"{asked.method} {path} is not allowed"


def _unfiltered(query: Mapping[str, str], rules: Rules) -> str | None:
    """Listings must name the label, so that they show our own containers only."""
    labels = _filters(query).get("label")
    names = labels if isinstance(labels, list) else list(labels) if isinstance(labels, dict) else []
    wanted = {"im.managed=1"} | ({f"im.store={rules.store}"} if rules.store is not None else set())
    return None if wanted <= set(names) else f"the listing must be filtered by the labels {', '.join(sorted(wanted))}"


def _filters(query: Mapping[str, str]) -> dict[str, Any]:
    try:
        filters = json.loads(query.get("filters", "{}"))
    except ValueError:
        return {}
    return filters if isinstance(filters, dict) else {}


def _judge_creation(body: bytes, rules: Rules, judgement: Callable[[dict[str, Any], Rules], str | None]) -> str | None:
    try:
        fields = json.loads(body, object_pairs_hook=_once)
    except ValueError as exc:
        return f"the body is no plain JSON: {exc}"
    if not isinstance(fields, dict):
        return "the body is no JSON object"
    return judgement(fields, rules)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The engine merges objects that are given twice, so what the first one said would pass unseen."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key is given twice")
    return fields


def _judge_pull(query: Mapping[str, str], rules: Rules) -> str | None:
    if query.get("fromSrc"):
        return "images are pulled, never imported"
    tag = query.get("tag", "")
    separator = "@" if tag.startswith("sha256:") else ":"
    name = query.get("fromImage", "") + (f"{separator}{tag}" if tag else "")
    return None if rules.allows_image(name) else f"image {name!r} is not allowed"
