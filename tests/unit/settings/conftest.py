"""A folder with a valid configuration, which each test bends as it needs."""

import json
from pathlib import Path
from typing import Any

import pytest

from controlplane.errors import ConfigError
from controlplane.settings import Settings, load

CHAT = {"model_id": "m", "model_type": "text2text", "engine": "simulated", "vram_required_mb": 100}


class Config:
    """Writes the two files and loads them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "inference_manager.json"
        self.models_path = folder / "models.json"
        self.environ: dict[str, str] = {}
        self.manager()
        self.models(CHAT)

    def manager(self, **keys: Any) -> None:
        self.path.write_text(json.dumps(keys, indent=1))

    def models(self, *entries: Any) -> None:
        self.models_path.write_text(json.dumps({"models": list(entries)}, indent=1))

    def model(self, **keys: Any) -> None:
        self.models({**CHAT, **keys})

    def load(self) -> Settings:
        return load(self.path, self.environ)

    def mistakes(self) -> list[str]:
        """One line per mistake, without the folder's path."""
        with pytest.raises(ConfigError) as caught:
            self.load()
        return str(caught.value).replace(f"{self.folder}/", "").split("\n  ")[1:]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(tmp_path)
