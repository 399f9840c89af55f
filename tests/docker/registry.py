"""A registry on this host with one image or none, for pulls that succeed, fail or take their time."""

import gzip
import hashlib
import io
import json
import random
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_CHUNK = 1 << 18


@dataclass
class Registry:
    """`images` maps a repository to its manifest's digest; `asked` are the paths in order."""

    address: str = ""
    blobs: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def add(self, repository: str, layer_mib: int) -> str:
        """An image of one layer that does not shrink; its whole name, with a tag."""
        tar = _tar(random.Random(repository).randbytes(layer_mib << 20))
        layer = gzip.compress(tar, compresslevel=1)
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [_digest(tar)]},
            }
        ).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": self._blob(_CONFIG, config),
            "layers": [self._blob(_LAYER, layer)],
        }
        self.images[repository] = self._blob(_MANIFEST, json.dumps(manifest).encode())["digest"]
        return f"{self.address}/{repository}:1"

    def found(self, path: str) -> tuple[str, bytes] | None:
        """What lies at a path: its type and content."""
        if path == "/v2/":
            return "application/json", b"{}"
        repository = path.removeprefix("/v2/").rpartition("/manifests/")[0]
        return self.blobs.get(self.images.get(repository, "") if repository else path.rpartition("/")[2])

    def _blob(self, kind: str, content: bytes) -> dict[str, Any]:
        digest = _digest(content)
        self.blobs[digest] = (kind, content)
        return {"mediaType": kind, "size": len(content), "digest": digest}


@contextmanager
def registry() -> Iterator[Registry]:
    """One that serves until the end of the block."""
    made = Registry()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append(self.path)
            found = made.found(self.path)
            kind, content = found or ("application/json", b'{"errors": []}')
            self.send_response(404 if found is None else 200)
            self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Docker-Content-Digest", _digest(content))
            self.end_headers()
            if self.command == "GET":
                for start in range(0, len(content), _CHUNK):
                    self.wfile.write(content[start : start + _CHUNK])

        do_HEAD = do_GET  # noqa: N815  # so named by its base

        def log_message(self, *_: object) -> None:
            """The test reads `asked`."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    made.address = f"127.0.0.1:{server.server_address[1]}"
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        yield made
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


def _tar(content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo("weights")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
