"""The reference of the configuration, generated from the same classes that check it.

`python -m controlplane.settings.schema --write` renews the JSON Schemas and the
reference page; without `--write` it says which of them lag and exits 1.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from controlplane.settings.manager_file import ManagerFile
from controlplane.settings.models_file import ModelsFile
from controlplane.settings.reference import reference
from controlplane.settings.section import Section

ROOT = Path(__file__).resolve().parents[2]
FILES: Mapping[str, type[Section]] = {"models": ModelsFile, "inference_manager": ManagerFile}
REFERENCE = Path("docs/configuration.md")


class _Untitled(GenerateJsonSchema):
    """Leaves out titles that only repeat the key."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False


def json_schema(model: type[Section]) -> dict[str, Any]:
    """The JSON Schema of one file."""
    schema = model.model_json_schema(schema_generator=_Untitled)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def generated() -> dict[Path, str]:
    """Every generated file, by its path under the project's root."""
    schemas = {name: json_schema(model) for name, model in FILES.items()}
    files = {
        Path(f"config/schemas/{name}.schema.json"): json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        for name, schema in schemas.items()
    }
    return {**files, REFERENCE: reference(schemas)}


def lagging(root: Path = ROOT) -> list[Path]:
    """The generated files that do not say what the classes say."""
    return [path for path, text in generated().items() if not _says(root / path, text)]


def _says(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def main(arguments: list[str]) -> int:
    """Write the generated files, or name those that lag."""
    late = lagging()
    if arguments == ["--write"]:
        for path in late:
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(generated()[path], encoding="utf-8")
        return 0
    for path in late:
        sys.stdout.write(f"{path} lags; run python -m controlplane.settings.schema --write\n")
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
