"""Reads the configuration files once, and reports everything that is wrong with them together."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from controlplane.settings.document import BadDocument, Document, parse
from controlplane.settings.manager_file import ApiKey, ManagerFile
from controlplane.settings.models_file import ModelSettings, ModelsFile
from controlplane.settings.names import clashes, names_in
from controlplane.settings.problems import Problem, config_error, place, problems_of
from controlplane.settings.section import Section, Surroundings
from controlplane.settings.settings import Settings, exposed

DEFAULT_MODELS_FILE = "models.json"

S = TypeVar("S", bound=Section)


def load(config_path: Path, environ: Mapping[str, str] | None = None) -> Settings:
    """The configuration in `config_path` and the models file it names.

    `environ` holds the variables that secrets may name; the process's own by default.
    Raises ConfigError with every mistake of both files.
    """
    variables = os.environ if environ is None else environ
    path = config_path.expanduser().absolute()
    manager = _Reading(path, variables)
    checked = manager.validated(ManagerFile)
    if checked:
        manager.report(_joint_problems(checked))
    models = _Reading(checked.models_file if checked else manager.models_path(), variables)
    entries = models.validated(ModelsFile)
    models.report(clashes(names_in(models.member("models"))))
    problems = [*manager.in_order(), *models.in_order()]
    if problems or checked is None or entries is None:
        raise config_error(problems)
    return _joined(path, checked, entries)


@dataclass
class _Reading:
    """One file being read: its document, and what is wrong with it so far."""

    path: Path
    environ: Mapping[str, str]
    document: Document | None = None
    problems: list[Problem] = field(default_factory=list)

    def __post_init__(self) -> None:
        try:
            self.document = parse(self.path.read_text(encoding="utf-8-sig"))
        except BadDocument as exc:
            self.problems.append(Problem(self.path, "", str(exc)))
        except OSError as exc:
            self.problems.append(Problem(self.path, "", f"cannot be read: {exc.strerror}; create it or name another"))
        except UnicodeDecodeError:
            self.problems.append(Problem(self.path, "", "is not UTF-8 text; save it as UTF-8"))

    def validated(self, model: type[S]) -> S | None:
        if self.document is None:
            return None
        around = Surroundings(self.path.parent, self.environ)
        try:
            return model.model_validate(self.document.value, context=around)
        except ValidationError as exc:
            self.problems += problems_of(exc, self.path, self.document, model)
            return None

    def report(self, found: Iterable[tuple[tuple[str | int, ...], str]]) -> None:
        document = self.document or Document(None)
        self.problems += [Problem(self.path, place(at), text, document.line(at)) for at, text in found]

    def in_order(self) -> list[Problem]:
        return sorted(self.problems, key=lambda problem: problem.line or 0)

    def member(self, key: str) -> object:
        value = self.document.value if self.document else None
        return value.get(key) if isinstance(value, dict) else None

    def models_path(self) -> Path:
        """Where the models are, when the rest of the file cannot be trusted."""
        named = self.member("models_file")
        return Surroundings(self.path.parent).path(named if isinstance(named, str) else DEFAULT_MODELS_FILE)


def _joint_problems(manager: ManagerFile) -> Iterable[tuple[tuple[str | int, ...], str]]:
    if problem := exposed(manager.server, manager.api_keys):
        yield ("server", "host"), problem
    yield from _repeated_keys(manager.api_keys)


def _repeated_keys(keys: tuple[ApiKey, ...]) -> Iterable[tuple[tuple[str | int, ...], str]]:
    names: set[str] = set()
    hashes: set[str] = set()
    for index, key in enumerate(keys):
        if key.name in names:
            yield ("api_keys", index, "name"), f'"{key.name}" stands twice; give each key a name of its own'
        if key.sha256 in hashes:
            yield ("api_keys", index, "key"), "the same key stands twice; give each user a key of their own"
        names.add(key.name)
        hashes.add(key.sha256)


def _joined(path: Path, manager: ManagerFile, file: ModelsFile) -> Settings:
    idle = manager.scheduling.idle_timeout_seconds
    sections = {name: getattr(manager, name) for name in ManagerFile.model_fields}
    models = tuple(_with_idle_default(model, idle) for model in file.models)
    return Settings.model_construct(**sections, models=models, config_path=path)


def _with_idle_default(model: ModelSettings, idle: float | None) -> ModelSettings:
    if "idle_timeout_seconds" in model.model_fields_set:
        return model
    return model.model_copy(update={"idle_timeout_seconds": idle})
