"""Recipes: what an engine environment is made of, read from `engines/**/environment.toml`.

Decides what is valid, which interpreter fits and what the environment's folder is called. Installs nothing.
"""

import hashlib
import re
import shutil
import sys
import sysconfig
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

import engines
from controlplane.errors import ConfigError

RECIPE_FILE = "environment.toml"
# Byte-wise progress that a program can read came with this release.
OLDEST_PIP = Version("24.1")


def _specifier(text: str) -> str:
    try:
        SpecifierSet(text)
    except InvalidSpecifier as exc:
        raise ValueError(f"{text!r} is no version requirement; write one like '>=3.11,<3.15'") from exc
    return text


def _pip_version(text: str) -> str:
    try:
        version = Version(text)
    except InvalidVersion as exc:
        raise ValueError(f"{text!r} is no version; write one like '26.3'") from exc
    if version < OLDEST_PIP:
        raise ValueError(f"pip {text} is too old; write {OLDEST_PIP} or newer")
    return text


ShapeT = TypeVar("ShapeT", bound=BaseModel)
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
ExactPin = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+$")]
ExactVersion = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.+!]+$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
PackageName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+$")]


class Extras(BaseModel):
    """Packages in a folder of their own, without their dependencies: only launches that name it see them.

    `check` runs with that folder ahead of the environment's libraries.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Slug
    packages: Annotated[tuple[ExactPin, ...], Field(min_length=1)]
    check: str


def _named_once(extras: tuple[Extras, ...]) -> tuple[Extras, ...]:
    names = [each.name for each in extras]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two extras are named {name!r}; give each a name of its own")
    return extras


class RecipeFile(BaseModel):
    """The keys of an environment.toml; `first` is installed with its dependencies, `lock` without."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Slug
    summary: str
    python: Annotated[str, AfterValidator(_specifier)]
    pip: Annotated[str, AfterValidator(_pip_version)] | None = None
    first: tuple[ExactPin, ...] = ()
    lock: str | None = None
    remove: tuple[PackageName, ...] = ()
    extras: Annotated[tuple[Extras, ...], AfterValidator(_named_once)] = ()
    check: str


@dataclass(frozen=True)
class Recipe:
    """A valid recipe with its lock read; `content` is the digest of both, comments of the recipe left out."""

    settings: RecipeFile
    lock: Path | None
    locked_packages: int
    content: str

    @property
    def name(self) -> str:
        return self.settings.name


@dataclass(frozen=True)
class Interpreter:
    """A Python that can make an environment; `tag` is its `major.minor`."""

    program: str
    tag: str


def load_recipe(path: Path) -> Recipe:
    """Read one environment.toml and the lock beside it; raises ConfigError."""
    text = read_text(path)
    settings = parse_toml(path, text, RecipeFile)
    lock = path.parent / settings.lock if settings.lock else None
    locked = read_text(lock) if lock else ""
    # A key that is not used stays out: a release that adds one must not make every environment anew.
    written = settings.model_dump_json(exclude=None if settings.extras else {"extras"})
    content = hashlib.sha256(f"{written}\0{locked}".encode()).hexdigest()
    return Recipe(settings, lock, len(re.findall(r"^[A-Za-z0-9]\S*==", locked, re.MULTILINE)), content)


def shipped_recipes() -> Mapping[str, Recipe]:
    """The recipes that come with the engines, by name."""
    folder = Path(engines.__path__[0])
    recipes = [load_recipe(path) for path in sorted(folder.rglob(RECIPE_FILE))]
    return {recipe.name: recipe for recipe in recipes}


def find_interpreter(requirement: str) -> Interpreter | None:
    """The Python that runs us if it meets `requirement`, else the newest on the search path that does."""
    wanted = SpecifierSet(requirement)
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    if own in wanted:
        return Interpreter(sys.executable, own)
    tags = [f"3.{minor}" for minor in range(20, 8, -1) if f"3.{minor}" in wanted]
    found = ((shutil.which(f"python{tag}"), tag) for tag in tags)
    return next((Interpreter(program, tag) for program, tag in found if program), None)


def folder_name(recipe: Recipe, interpreter: Interpreter) -> str:
    """The environment's folder: another recipe, lock, Python or platform is another folder."""
    key = f"{recipe.content}\0{interpreter.tag}\0{sysconfig.get_platform()}"
    return f"{recipe.name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def parse_toml(path: Path, text: str, shape: type[ShapeT]) -> ShapeT:
    """Parse `text` of file `path` into `shape`; a ConfigError names file, key and what is wrong."""
    try:
        return shape.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path}: not valid TOML: {exc}") from exc
    except ValidationError as exc:
        raise ConfigError(f"{path}: {_describe(exc, shape)}") from exc


def _describe(exc: ValidationError, shape: type[BaseModel]) -> str:
    problems = []
    for error in exc.errors():
        key = ".".join(map(str, error["loc"]))
        if error["type"] == "extra_forbidden":
            problems.append(f"unknown key {key!r}; known keys: {', '.join(shape.model_fields)}")
        else:
            problems.append(f"{key}: {error['msg']}")
    return "; ".join(problems)


def read_text(path: Path) -> str:
    """The text of a recipe or catalog file; raises ConfigError."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"{path}: cannot read: {exc.strerror}") from exc
