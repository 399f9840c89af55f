"""What the tests on real vLLM configure, and how they look at the engine behind the service.

Models are the shipped ones; budgets, slots and the state directory are the tests' own.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.integration.service import Service

CHAT, EMBED = "smollm2-135m", "all-minilm-l6-v2"
CHAT_REPLICA, EMBED_REPLICA = f"{CHAT}-0", f"{EMBED}-0"
BUDGET_MIB = 3072
SLOTS = 2
# On a fresh machine the first start also installs vLLM and makes the model.
FIRST_START_SECONDS = 900.0

_SHIPPED = Path(__file__).resolve().parents[2] / "config" / "models.json"
_MIB = 1024 * 1024


def shipped_models() -> list[dict[str, Any]]:
    """The text models of config/models.json, with few slots so that a line forms behind two streams."""
    return [{**entry, "max_concurrency": SLOTS} for entry in shipped(CHAT, EMBED)]


def shipped(*model_ids: str) -> list[dict[str, Any]]:
    """These entries of config/models.json as they stand."""
    models: list[dict[str, Any]] = json.loads(_SHIPPED.read_text())["models"]
    return [entry for entry in models if entry["model_id"] in model_ids]


def configure(service: Service, models: list[dict[str, Any]], **sections: Any) -> None:
    """Write both files: real caches, a budget that holds one model, and no pause before a swap or a retry."""
    settings = {
        "state_dir": "state",
        "cache_dir": os.environ.get("IM_TEST_CACHE", "~/.cache/inference-manager"),
        "devices": {"source": "host", "budgets_mib": {"host": BUDGET_MIB}},
        "scheduling": {
            "min_residency_seconds": 0,
            "resync_seconds": 1,
            "backoff_initial_seconds": 0.2,
            "default_deadline_seconds": FIRST_START_SECONDS,
        },
        **sections,
    }
    (service.folder / "models.json").write_text(json.dumps({"models": models}))
    service.config.write_text(json.dumps(settings))


async def engine_get(view: Any, path: str) -> str:
    """Ask a replica's engine directly, at the socket that the admin API shows."""
    async with engine_client(view) as client:
        answer = await client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.text


def engine_client(view: Any) -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(uds=view["endpoint"].removeprefix("unix:"))
    return httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=60)


async def engine_running(view: Any) -> int:
    """How many requests the engine itself says it works on."""
    for line in (await engine_get(view, "/metrics")).splitlines():
        if line.startswith("vllm:num_requests_running{"):
            return int(float(line.rsplit(" ", 1)[1]))
    raise AssertionError("the engine does not tell how many requests run")


@dataclass
class MemoryWatch:
    """What two replicas' process trees held over time, seen in /proc; resident pages, so shared ones count twice."""

    service: Service
    first: str
    second: str
    peak_mib: float = 0.0
    overlapped: bool = False

    def look(self) -> None:
        """One sample. The later replica is read first: whoever is seen after that was alive together with it."""
        second, first = self.service.engines(self.second), self.service.engines(self.first)
        self.overlapped |= bool(first) and bool(second)
        self.peak_mib = max(self.peak_mib, sum(map(_resident_mib, first + second)))


def _resident_mib(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss) / _MIB
    except psutil.Error:
        return 0.0
