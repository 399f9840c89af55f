"""One look at a replica, against scripted servers on real sockets; real engines are in the contract suite."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from adapters.base import Probe
from adapters.endpoint import Endpoint
from adapters.vllm import probe
from tests.unit.raw_engine import Peer, Run, engine, on_both_loops

METRICS = b"""vllm:num_requests_running{engine="0"} 2.0
vllm:num_requests_waiting{engine="0"} 3.0
vllm:prompt_tokens_total{engine="0"} 100.0
vllm:generation_tokens_total{engine="0"} 20.0
vllm:iteration_tokens_total_count{engine="0"} 7.0
vllm:request_success_total{engine="0",finished_reason="stop"} 1.0
vllm:request_success_total{engine="0",finished_reason="abort"} 1.0
"""


@asynccontextmanager
async def serving(answers: Mapping[bytes, tuple[int, bytes]], uds: Path | None = None) -> AsyncIterator[Endpoint]:
    """An engine that answers GETs by path, and closes the connection where it has no answer."""

    async def script(peer: Peer) -> None:
        while answer := answers.get((await peer.request())[0].split(b" ")[1]):
            peer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (answer[0], len(answer[1]), answer[1]))

    async with engine(script, uds=uds) as endpoint:
        yield endpoint


def test_counters_are_read_out_of_metrics() -> None:
    """Running and waiting as they are; progress is the sum of everything that only rises when work moves."""
    assert probe.read_counters(METRICS) == Probe(ready=True, running=2, waiting=3, progressed=129.0)


@on_both_loops
def test_ready_over_a_unix_socket_and_tcp(run: Run, tmp_path: Path) -> None:
    """Both kinds of address, on both event loops."""

    async def scenario() -> None:
        answers = {b"/health": (200, b""), b"/metrics": (200, METRICS)}
        async with serving(answers, tmp_path / "s") as unix, serving(answers) as tcp:
            assert await probe.look(unix) == await probe.look(tcp) == probe.read_counters(METRICS)

    run(scenario())


@on_both_loops
def test_an_engine_that_is_not_there_is_not_ready(run: Run, tmp_path: Path) -> None:
    """No socket file yet, and a port where nobody listens, are answers and not errors."""

    async def scenario() -> None:
        async with serving({}) as closed:
            pass
        for endpoint in (Endpoint.unix(str(tmp_path / "none")), closed):
            look = await probe.look(endpoint)
            assert not look.ready
            assert look.detail.startswith("cannot connect")

    run(scenario())


@on_both_loops
@pytest.mark.parametrize("status", [503, 500, 404])
def test_any_other_health_than_200_is_not_ready(run: Run, status: int) -> None:
    """503 is what vLLM says when its core is dead; the detail tells the status."""

    async def scenario() -> None:
        async with serving({b"/health": (status, b"gone")}) as endpoint:
            look = await probe.look(endpoint)
        assert (look.ready, look.detail) == (False, f"/health answered {status}: gone")

    run(scenario())


@on_both_loops
@pytest.mark.parametrize("metrics", [(404, b"no"), (200, b"other 1\n"), (200, b"\xff\x00"), None])
def test_health_without_counters_is_ready_all_the_same(run: Run, metrics: tuple[int, bytes] | None) -> None:
    """No, foreign or unreadable metrics, or a connection that is closed instead of an answer: counters are None."""

    async def scenario() -> None:
        answers = {b"/health": (200, b"")} | ({b"/metrics": metrics} if metrics else {})
        async with serving(answers) as endpoint:
            look = await probe.look(endpoint)
        assert (look.ready, look.running, look.waiting, look.progressed) == (True, None, None, None)

    run(scenario())
