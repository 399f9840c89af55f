"""The engine's page lags behind neither its options, nor its fields, paths and error codes."""

import re
from pathlib import Path

from starlette.routing import Route

from engines.diffusers.app import ROUTES
from engines.diffusers.options import EngineOptions
from engines.diffusers.wire import EditBody, ProcessBody
from engines.pictures.operations import OPERATIONS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "engines" / "diffusers.md").read_text()
CODED = frozenset(re.findall(r"`([^`\n]+)`", PAGE))


def test_every_option_is_on_the_page() -> None:
    """And in its table, with nothing that is no option."""
    table = PAGE.partition("## Options")[2].partition("\n## ")[0]
    names = {name for row in re.findall(r"^\| (`[^|]+) \|", table, re.M) for name in re.findall(r"`(\w+)`", row)}
    assert names == set(EngineOptions.model_fields)


def test_every_field_is_on_the_page() -> None:
    """Of drawings, edits and operations."""
    fields = set(EditBody.model_fields) | set(ProcessBody.model_fields)
    assert [field for field in sorted(fields) if not any(re.search(rf"\b{field}\b", each) for each in CODED)] == []


def test_every_path_and_operation_is_on_the_page() -> None:
    """With its method where that is not GET."""
    paths = [route.path.replace("request_id", "id") for route in ROUTES if isinstance(route, Route)]
    assert [path for path in paths if not any(path in each for each in CODED)] == []
    assert [name for name in OPERATIONS if name not in CODED] == []


def test_every_error_code_is_on_the_page() -> None:
    """As far as a caller can meet it for something other than a wrong path."""
    sources = "".join(path.read_text() for path in (ROOT / "engines" / "diffusers").glob("*.py"))
    codes = set(re.findall(r'(?:"server_error"|_error", |param, |None, )\s*"([a-z]+_[a-z_]+)"', sources))
    codes -= {"server_error", "invalid_request_error"}
    assert len(codes) > 5
    assert sorted(codes - CODED) == []
