"""What the gate is told: which images, mounts and networks engines may use. Parsed once from its command line."""

import fnmatch
from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True, slots=True)
class Rules:
    """`images` are patterns such as `vllm/vllm-openai:*`; `folders` host paths that may be bound, with what is in them;
    `volumes` and `networks` names. `store` is the label value without which nothing is touched; None: any store.
    """

    images: tuple[str, ...]
    folders: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    store: str | None = None

    def allows_image(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.images)

    def allows_folder(self, path: str) -> bool:
        """Whether `path` lies in an allowed folder; a path with `..` never does."""
        asked = PurePosixPath(path)
        if not asked.is_absolute() or ".." in asked.parts:
            return False
        return any(asked.is_relative_to(folder) for folder in self.folders)

    def allows_network(self, name: str) -> bool:
        return name == "none" or name in self.networks

    def owns(self, labels: object) -> bool:
        """Whether a container with these labels is one of the control plane's."""
        if not isinstance(labels, dict) or labels.get("im.managed") != "1":
            return False
        return self.store is None or labels.get("im.store") == self.store
