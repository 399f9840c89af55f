"""What a simulated engine does to its host: memory, start, stop, and every scripted fault, in real processes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
from pathlib import Path

import psutil
import pytest
from simulated_process import READY, SimulatedProcess, chat, metrics, post, simulated, until

from adapters.errors import EngineDied, EngineTimeout, EngineUnreachable
from adapters.http1 import Pool, Response
from engines.simulated.script import ScriptError, parse_script
from engines.simulated.text import expected_answer

CHAT = "/v1/chat/completions"


async def open_stream(pool: Pool, max_tokens: int = 30000) -> Response:
    body = json.dumps(chat("x", stream=True, max_tokens=max_tokens)).encode()
    return await pool.send("POST", CHAT, [], body)


async def read_text(response: Response) -> str:
    """The whole stream, or what came before its connection was lost."""
    got = b""
    try:
        while (chunk := await response.next_chunk()) is not None:
            got += chunk
    except EngineDied:
        pass
    return got.decode()


async def finished(engine: SimulatedProcess) -> int:
    return await asyncio.to_thread(engine.wait)


# memory


async def test_memory_is_really_held_and_sleep_gives_it_back() -> None:
    """Weights and cache are resident; sleep leaves what the script says; waking takes them again."""
    with simulated({"memory_mib": 80, "kv_cache_mib": 40, "asleep_mib": 10}) as engine:
        pool = engine.pool()
        awake_mib = engine.resident_mib()
        assert awake_mib > 120
        assert await post(pool, "/sleep?level=1", {}) == (200, {"status": "sleeping"})
        assert 105 < awake_mib - engine.resident_mib() < 115
        assert (await metrics(pool))['vllm:engine_sleep_state{sleep_state="weights_offloaded"}'] == 1
        assert (await post(pool, "/wake_up", {}))[0] == 200
        assert abs(awake_mib - engine.resident_mib()) < 5
        pool.close()


async def test_false_sleep_frees_nothing() -> None:
    """The lie: 200 and `is_sleeping`, with all memory still resident."""
    with simulated({"memory_mib": 80, "faults": [{"kind": "false_sleep"}]}) as engine:
        pool = engine.pool()
        awake_mib = engine.resident_mib()
        assert (await post(pool, "/sleep", {}))[0] == 200
        response = await pool.send("GET", "/is_sleeping")
        assert json.loads(await response.read(100)) == {"is_sleeping": True}
        assert engine.resident_mib() > awake_mib - 5
        pool.close()


async def test_sleep_aborts_what_runs_and_holds_what_comes() -> None:
    """A running stream ends with "abort"; a request to a sleeper is accepted, and answered after the waking."""
    with simulated({"tokens_per_second": 20}) as engine:
        pool = engine.pool()
        stream = await open_stream(pool)
        await stream.next_chunk()
        await post(pool, "/sleep", {})
        assert '"finish_reason":"abort"' in await read_text(stream)
        held = asyncio.create_task(post(pool, CHAT, chat("x", max_tokens=1)))
        await until(pool, "vllm:num_requests_waiting", 1)
        await post(pool, "/wake_up", {})
        assert (await held)[0] == 200
        pool.close()


# start


def test_start_logs_the_phases_of_vllm() -> None:
    """The phases that an adapter reads come in vLLM's words and order."""
    with simulated({"memory_mib": 1}) as engine:
        log = "\n".join(engine.lines)
        phases = [
            "non-default args:",
            "Resolved architecture:",
            "Initializing a V1 LLM engine (v",
            "Starting to load model",
            "Loading safetensors checkpoint shards: 25%",
            "Loading weights took",
            "Model loading took",
            "Available KV cache memory:",
            "GPU KV cache size:",
            "init engine (profile, create kv cache, warmup model) took",
            "Supported tasks:",
            "Starting vLLM server on http://127.0.0.1:",
            READY,
        ]
        places = [log.index(phase) for phase in phases]
        assert places == sorted(places)


def test_a_loading_engine_refuses_connections_and_ends_on_sigterm(tmp_path: Path) -> None:
    """Until it is ready a connection is refused; SIGTERM ends it at once and leaves no socket behind."""
    path = tmp_path / "e.sock"
    with simulated({"load_seconds": 60}, ready=False, uds=path) as engine:
        engine.wait_for("Starting to load model")
        with socket.socket(socket.AF_UNIX) as sock, pytest.raises(ConnectionRefusedError):
            sock.connect(str(path))
        engine.signal()
        assert engine.wait() == 0
        assert not path.exists()


def test_out_of_memory_at_start() -> None:
    """vLLM's fatal line, and exit status 1."""
    with simulated({"faults": [{"kind": "out_of_memory"}]}, ready=False) as engine:
        line = engine.wait_for("is less than desired GPU memory utilization")
        assert "Free memory on device" in line
        assert engine.wait() == 1


def test_exit_while_loading() -> None:
    """The scripted exit status, before it is ready."""
    script = {"load_seconds": 60, "faults": [{"kind": "exit", "code": 7, "seconds": 0.05}]}
    with simulated(script, ready=False) as engine:
        assert engine.wait() == 7
        assert READY not in "\n".join(engine.lines)


def test_a_taken_port_is_an_error() -> None:
    """The second engine on a port ends with status 1 and says which address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        engine = SimulatedProcess({}, ("sim",), ["--port", str(taken.getsockname()[1])])
        try:
            engine.wait_for("cannot listen on 127.0.0.1:")
            assert engine.wait() == 1
        finally:
            engine.kill_all()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ('{"load_second": 1}', "unknown key load_second; did you mean load_seconds?"),
        ('{"memory_mib": -1}', "memory_mib must be at least 0"),
        ('{"memory_mib": 1.5}', "memory_mib must be a whole number"),
        ('{"memory_mib": true}', "memory_mib must be a whole number"),
        ('{"tokens_per_second": "9"}', "tokens_per_second must be a number"),
        ('{"faults": {}}', "faults must be a list"),
        ('{"faults": [{"kind": "boom"}]}', "faults[0].kind must be one of crash"),
        ('{"faults": [{"kind": "crash", "at": 1}]}', "faults[0]: unknown key at"),
        ('{"faults": [{"kind": "crash", "request": 0}]}', "request must be at least 1"),
        ("{", "is not JSON"),
        ("/nowhere/script.json", "cannot read the script /nowhere/script.json"),
    ],
)
def test_a_wrong_script_is_refused(script: str, message: str) -> None:
    """Every mistake names its place and what is right there."""
    with pytest.raises(ScriptError, match=re.escape(message)):
        parse_script(script)


def test_the_script_may_be_a_file(tmp_path: Path) -> None:
    """A file is read as the same text would be."""
    path = tmp_path / "script.json"
    path.write_text('{"load_seconds": 2, "faults": [{"kind": "hang", "token": 3}]}')
    assert parse_script(str(path)) == parse_script(path.read_text())


# faults of a generation


async def test_crash_of_the_kth_request_on_the_first_start_only(tmp_path: Path) -> None:
    """The second request gets exactly three tokens, then SIGKILL; after a restart nothing goes wrong any more."""
    fault = {"kind": "crash", "token": 3, "request": 2, "only_first_start": True}
    script = {"tokens_per_second": 50, "faults": [fault]}
    with simulated(script, state_dir=tmp_path) as engine:
        pool = engine.pool()
        assert (await post(pool, CHAT, chat("x", max_tokens=5)))[0] == 200
        text = await read_text(await open_stream(pool))
        assert "tok2-" in text
        assert "tok3-" not in text
        assert await finished(engine) == -signal.SIGKILL
        with pytest.raises(EngineUnreachable):
            await pool.send("GET", "/health")
    with simulated(script, state_dir=tmp_path) as engine:
        pool = engine.pool()
        for _ in range(2):
            assert (await post(pool, CHAT, chat("x", max_tokens=5)))[0] == 200
        pool.close()


def test_only_first_start_needs_a_memory() -> None:
    """Without a folder to remember the starts in, such a script is refused."""
    with simulated({"faults": [{"kind": "out_of_memory", "only_first_start": True}]}, ready=False) as engine:
        engine.wait_for("only_first_start needs --state-dir")
        assert engine.wait() == 2


async def test_hang_keeps_health_and_freezes_metrics() -> None:
    """After the second token nothing moves: no token, no metric, no answer to others; `/health` stays 200."""
    with simulated({"tokens_per_second": 50, "faults": [{"kind": "hang", "token": 2}]}) as engine:
        pool = engine.pool()
        stream = await open_stream(pool)
        await until(pool, "vllm:generation_tokens_total", 2)
        frozen = await metrics(pool)
        with pytest.raises(EngineTimeout):
            await pool.send("POST", CHAT, [], json.dumps(chat("y", max_tokens=1)).encode(), timeout_seconds=0.3)
        assert await metrics(pool) == frozen
        assert (await pool.send("GET", "/health")).status == 200
        stream.close()
        pool.close()


@pytest.mark.parametrize("token", [0, 2])
async def test_abort_and_error_of_single_requests(token: int) -> None:
    """Request 1 ends with "abort", 2 with an error, both streamed; 3 and 4 the same whole; 5 is right."""
    kinds = ["abort", "error", "abort", "error"]
    faults = [{"kind": kind, "token": token, "request": n} for n, kind in enumerate(kinds, start=1)]
    with simulated({"faults": faults}) as engine:
        pool = engine.pool()
        aborted = await read_text(await open_stream(pool, max_tokens=4))
        assert '"finish_reason":"abort"' in aborted
        broken = await read_text(await open_stream(pool, max_tokens=4))
        assert 'data: {"error":{"message":"EngineCore encountered an issue' in broken
        assert broken.count(" tok") == token == aborted.count(" tok")
        assert broken.endswith("data: [DONE]\n\n")
        status, answer = await post(pool, CHAT, chat("x", max_tokens=4))
        assert (status, answer["choices"][0]["finish_reason"]) == (200, "abort")
        assert answer["choices"][0]["message"]["content"] == expected_answer("x", token)
        status, answer = await post(pool, CHAT, chat("x", max_tokens=4))
        assert (status, answer["error"]["type"]) == (500, "InternalServerError")
        status, answer = await post(pool, CHAT, chat("x", max_tokens=4))
        assert answer["choices"][0]["finish_reason"] == "length"
        pool.close()


# stop


async def test_sigterm_frees_memory_but_waits_for_its_clients() -> None:
    """As vLLM without a drain: memory is back at once, a client in flight gets no answer, and the process stays."""
    with simulated({"memory_mib": 100, "tokens_per_second": 10}) as engine:
        pool, busy = engine.pool(), engine.pool()
        stream = await open_stream(busy)
        await stream.next_chunk()
        held_mib = engine.resident_mib()
        engine.signal()
        await asyncio.to_thread(engine.wait_for, "Shutting down")
        with pytest.raises((EngineUnreachable, EngineDied)):
            await post(pool, CHAT, chat("x"))
        assert engine.resident_mib() < held_mib - 90
        assert engine.process.poll() is None
        busy.close()
        assert await finished(engine) == 0


async def test_an_idle_engine_ends_at_once() -> None:
    """SIGTERM with nothing but an idle connection: it exits with 0."""
    with simulated() as engine:
        pool = engine.pool()
        assert (await post(pool, CHAT, chat("x")))[0] == 200
        engine.signal()
        assert await finished(engine) == 0


async def test_drain_finishes_what_runs() -> None:
    """With a shutdown timeout: the stream ends well, health stays 200, new requests get vLLM's 500, then exit 0."""
    with simulated({"tokens_per_second": 20, "shutdown_timeout_seconds": 20}) as engine:
        pool = engine.pool()
        stream = await open_stream(pool, max_tokens=20)
        await stream.next_chunk()
        engine.signal()
        await asyncio.to_thread(engine.wait_for, "Shutting down")
        status, answer = await post(pool, CHAT, chat("x"))
        assert (status, answer["error"]["message"]) == (500, "cannot schedule new futures after shutdown")
        assert (await pool.send("GET", "/health")).status == 200
        assert (await read_text(stream)).endswith("data: [DONE]\n\n")
        assert await finished(engine) == 0


async def test_a_drain_has_an_end() -> None:
    """When the time is over, what still runs is dropped."""
    with simulated({"tokens_per_second": 20, "shutdown_timeout_seconds": 0.1}) as engine:
        pool = engine.pool()
        stream = await open_stream(pool)
        engine.signal()
        await asyncio.to_thread(engine.wait_for, "Drain timed out")
        stream.close()
        assert await finished(engine) == 0


async def test_slow_free_takes_no_notice_of_sigterm() -> None:
    """After SIGTERM it still holds its memory and answers; later it ends by itself."""
    script = {"memory_mib": 60, "faults": [{"kind": "slow_free", "seconds": 1.5}]}
    with simulated(script) as engine:
        pool = engine.pool()
        held_mib = engine.resident_mib()
        engine.signal()
        await asyncio.to_thread(engine.wait_for, "Taking no notice")
        assert (await post(pool, CHAT, chat("x")))[0] == 200
        assert engine.resident_mib() > held_mib - 5
        assert await finished(engine) == 0


@pytest.mark.parametrize("new_session", [False, True])
async def test_a_child_is_left_behind(new_session: bool) -> None:
    """The child holds its memory, survives SIGTERM to the whole group and its parent's end; SIGKILL ends it."""
    fault = {"kind": "left_child", "memory_mib": 50, "new_session": new_session}
    with simulated({"faults": [fault]}) as engine:
        line = next(line for line in engine.lines if "child process that stays" in line)
        child = psutil.Process(int(line.rsplit(" ", 1)[1]))
        try:
            os.killpg(engine.process.pid, signal.SIGTERM)
            assert await finished(engine) == 0
            assert child.is_running()
            assert child.memory_info().rss > 50 * 1024 * 1024
            assert (os.getpgid(child.pid) == engine.process.pid) is not new_session
        finally:
            child.kill()
