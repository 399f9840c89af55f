"""The whole service with its store on PostgreSQL: it serves, outlives a kill, and keeps a second one out."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from chats import ask
from jobs import done, submit
from service import Serve, Service, model
from unified import TEXT

from engines.simulated.text import expected_answer
from tests.fakes.postgres_server import postgres_server


@pytest.fixture
def url() -> Iterator[str]:
    with postgres_server() as server, server.database() as url:
        yield url


async def test_the_service_lives_on_postgresql(serve: Serve, url: str, tmp_path: Path) -> None:
    """Calls and jobs are served and kept; SIGKILL loses no job; another control plane is told who holds the store."""
    service = await serve(model("a"), model("slow", slots=1, script={"tokens_per_second": 30}), store={"url": url})
    assert await ask(service.openai(), "a", "hello") == expected_answer("hello", 4)
    ids = [await submit(service, TEXT, model="slow", prompt=f"{n}", parameters={"max_tokens": 60}) for n in range(3)]
    await service.busy("slow", running=1)

    await service.restart()
    results = [await done(service, request_id) for request_id in ids]
    assert [each["text"] for each in results] == [expected_answer(f"{n}", 60) for n in range(3)]
    assert {row["request_id"] for row in await service.journal()} >= set(ids)
    assert not list(service.state_dir.glob("store.sqlite*"))

    (folder := tmp_path / "second").mkdir()
    second = Service(folder)
    second.write(model("a"), store={"url": url})
    second.spawn()
    assert await second.ended() == 1
    assert "held by inferctl serve, pid" in second.log_path.read_text()
