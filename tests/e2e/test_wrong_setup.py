"""A vLLM model that cannot start as configured: the caller learns why, and nothing half-started is left."""

import json
import struct
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.vllm_service import CHAT, CHAT_REPLICA, configure, shipped_models
from tests.integration.service import Service


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """Not configured and not started yet; gone for sure at the end."""
    service = Service(tmp_path)
    yield service
    await service.end()


def chat_model(model_path: str) -> dict[str, Any]:
    """The shipped chat model with its files elsewhere."""
    return {**shipped_models()[0], "model_path": model_path}


def tiny_model(folder: Path) -> str:
    """A model folder that is complete as far as can be seen without loading it; its path."""
    folder.mkdir()
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    return str(folder)


async def refusal(service: Service) -> openai.InternalServerError:
    """The error that a first chat gets."""
    with pytest.raises(openai.InternalServerError) as caught:
        await service.openai().chat.completions.create(model=CHAT, messages=[{"role": "user", "content": "hello"}])
    return caught.value


async def assert_refused_cleanly(service: Service, error: openai.InternalServerError) -> None:
    """A 503 that an application can act on, a replica that holds nothing, and a service that lives on."""
    assert (error.status_code, error.code, error.param) == (503, "model_failed", "model")
    assert CHAT in error.message
    assert float(error.response.headers["retry-after"]) > 0
    replica = await service.in_state(CHAT_REPLICA, "failed")
    assert (replica["reserved_mib"], replica["leases"]) == (0, 0)
    assert (await service.admin("devices"))["devices"][0]["booked_mib"] == 0
    service.assert_nothing_left()
    assert (await service.http.get("/health")).status_code == 200


async def test_a_missing_model_folder_is_named(service: Service) -> None:
    """The error names the folder that is not there, and comes at the first try."""
    configure(service, [chat_model("./nope")])
    await service.start()

    error = await refusal(service)

    assert f"{service.folder / 'nope'}: there is no such folder" in error.message
    await assert_refused_cleanly(service, error)


async def test_an_incomplete_model_folder_names_what_it_lacks(service: Service) -> None:
    """A folder with weights and no tokenizer is refused before an engine is started on it."""
    (Path(tiny_model(service.folder / "tiny")) / "tokenizer.json").unlink()
    configure(service, [chat_model("./tiny")])
    await service.start()

    error = await refusal(service)

    assert "lacks a tokenizer" in error.message
    await assert_refused_cleanly(service, error)


async def test_an_interpreter_without_vllm_is_named(service: Service) -> None:
    """An environment of the operator's own that has no vLLM: the error says that this module is missing."""
    configure(service, [chat_model(tiny_model(service.folder / "tiny"))], engines={"vllm": {"python": sys.executable}})
    await service.start()

    error = await refusal(service)

    assert "No module named 'vllm'" in error.message
    await assert_refused_cleanly(service, error)


async def test_an_interpreter_that_is_not_there_is_named(service: Service) -> None:
    """The error names the path and the setting to correct."""
    configure(
        service, [chat_model(tiny_model(service.folder / "tiny"))], engines={"vllm": {"python": "./nowhere/python"}}
    )
    await service.start()

    error = await refusal(service)

    assert f"{service.folder / 'nowhere' / 'python'}" in error.message
    assert "engines.vllm.python" in error.message
    await assert_refused_cleanly(service, error)
