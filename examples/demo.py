"""A tour in minutes: a real model, two streams at once, pictures drawn, named and upscaled, swaps, nothing left behind.

Starts the service as its own process and talks to it through the official
OpenAI SDK only; what it shows of the inside comes from the admin API.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TextIO

import httpx
import psutil
from demo_pictures import CAPTION, DRAW, WANTED, caption, draw, draw_together, keep, same_scene, upscale
from openai import AsyncOpenAI
from rich.console import Console
from rich.live import Live
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "config" / "demo" / "inference_manager.json"
STATE = ROOT / ".demo"
PICTURES = ROOT / "demo-pictures"
CHAT, EMBED = "smollm2-135m", "all-minilm-l6-v2"
QUESTION = "What is the capital of France?"

out = Console(highlight=False, soft_wrap=True)


@dataclass
class Timings:
    rows: list[tuple[str, float]] = field(default_factory=list)

    def note(self, what: str, seconds: float) -> None:
        self.rows.append((what, seconds))

    def show(self) -> None:
        table = Table("what", "seconds", title="Timings")
        for what, seconds in self.rows:
            table.add_row(what, f"{seconds:.2f}")
        out.print(table)


@asynccontextmanager
async def service() -> AsyncIterator[str]:
    """`inferctl serve` on a free port; yields its address, and stops it afterwards."""
    STATE.mkdir(exist_ok=True)
    command = (sys.executable, "-m", "controlplane.cli", "serve", "--config", str(CONFIG))
    with (STATE / "service.log").open("w") as log:
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE, cwd=ROOT)
        if process.stderr is None:
            raise RuntimeError("the service has no log")
        address = await _listening(process.stderr, log)
        copying = asyncio.create_task(_copy(process.stderr, log))
        try:
            yield address
        finally:
            process.send_signal(signal.SIGTERM)
            await process.wait()
            await copying


async def _listening(lines: asyncio.StreamReader, log: TextIO) -> str:
    while line := await lines.readline():
        log.write(line.decode())
        event = json.loads(line) if line.startswith(b"{") else {}
        if event.get("event") == "listening":
            return str(event["url"])
        if not event:
            out.print(line.decode().rstrip(), style="red")
    raise SystemExit("the service did not start; see .demo/service.log")


async def _copy(lines: asyncio.StreamReader, log: TextIO) -> None:
    while line := await lines.readline():
        log.write(line.decode())


@asynccontextmanager
async def reasons(admin: httpx.AsyncClient, model: str) -> AsyncIterator[None]:
    """While the block waits, print why, whenever the reason changes."""

    async def follow() -> None:
        shown = ""
        while True:
            found = (await admin.get("/admin/explain", params={"model": model})).json()
            if found["waiting"] and found["sentence"] != shown:
                shown = found["sentence"]
                out.print(f"  [dim]waiting: {shown}[/dim]")
            await asyncio.sleep(0.5)

    following = asyncio.create_task(follow())
    try:
        yield
    finally:
        following.cancel()


async def ledger(admin: httpx.AsyncClient) -> None:
    table = Table("device", "budget", "booked", "measured", "free", "holders", title="Memory, MiB")
    replicas = (await admin.get("/admin/replicas")).json()["replicas"]
    for device in (await admin.get("/admin/devices")).json()["devices"]:
        holders = ", ".join(f"{r['replica_id']} ({r['state']})" for r in replicas if r["reserved_mib"])
        figures = [str(device[key]) for key in ("budget_mib", "booked_mib", "measured_mib", "free_mib")]
        table.add_row(device["device_id"], *figures, holders or "nobody")
    out.print(table)


async def stream(client: AsyncOpenAI, question: str, show: Callable[[str], None]) -> tuple[str, float, float]:
    """The answer with the seconds to its first token and to its end; `show` gets each token as it comes."""
    began, first, text = time.monotonic(), 0.0, ""
    answer = await client.chat.completions.create(
        model=CHAT, messages=[{"role": "user", "content": question}], stream=True, temperature=0, max_tokens=40
    )
    async for chunk in answer:
        word = chunk.choices[0].delta.content if chunk.choices else None
        if word:
            first = first or time.monotonic() - began
            text += word
            show(word)
    return text, first, time.monotonic() - began


def say(word: str) -> None:
    out.print(word, end="", style="bold green")


async def first_answer(client: AsyncOpenAI, admin: httpx.AsyncClient, timings: Timings) -> None:
    out.rule(f"1. {QUESTION}")
    out.print(f"{CHAT} is not running; this request makes the service start it (the first time: install vLLM, too).")
    async with reasons(admin, CHAT):
        text, first, _ = await stream(client, QUESTION, say)
    out.print()
    if "Paris" not in text:
        raise SystemExit(f"expected Paris, got: {text}")
    timings.note("cold: request to first token", first)
    _, first, whole = await stream(client, QUESTION, say)
    out.print()
    timings.note("warm: request to first token", first)
    timings.note("warm: whole answer", whole)


async def two_streams(client: AsyncOpenAI, timings: Timings) -> None:
    out.rule("2. Two streams at once")
    questions = ("Count from one to ten.", "Name three colours.")
    texts = dict.fromkeys(questions, "")
    turns: list[str] = []
    began = time.monotonic()
    with Live(console=out, refresh_per_second=10) as live:

        async def one(question: str) -> float:
            def show(word: str) -> None:
                texts[question] += word
                turns.append(question)
                live.update(_side_by_side(texts))

            return (await stream(client, question, show))[2]

        alone = await asyncio.gather(*(one(question) for question in questions))
    timings.note("two streams together", time.monotonic() - began)
    timings.note("their times added up", sum(alone))
    changes = sum(a != b for a, b in pairwise(turns))
    out.print(f"{len(turns)} tokens came; the speaker changed {changes} times")


def _side_by_side(texts: dict[str, str]) -> Table:
    table = Table(*texts)
    table.add_row(*texts.values())
    return table


async def pictures(client: AsyncOpenAI, admin: httpx.AsyncClient, timings: Timings) -> None:
    out.rule(f"3. {WANTED.prompt}")
    began = time.monotonic()
    async with reasons(admin, DRAW):
        drawing = await draw(client, WANTED.prompt, seed=1)
    timings.note("draw: request to picture, engine started", time.monotonic() - began)
    timings.note("eight callers draw at once", await draw_together(client))
    began = time.monotonic()
    upscaled = await upscale(admin, drawing)
    timings.note("upscale: request to picture, engine started", time.monotonic() - began)
    await ledger(admin)
    began = time.monotonic()
    async with reasons(admin, CAPTION):
        said = await caption(client, drawing)
    timings.note("caption: request to text, after a swap", time.monotonic() - began)
    out.print(f"asked for: {WANTED.prompt}\ncaption:   [bold green]{said}[/bold green]")
    if wrong := same_scene(drawing, said, upscaled):
        raise SystemExit("; ".join(wrong))
    for path in keep(PICTURES, drawing, upscaled):
        out.print(f"see {path.relative_to(ROOT)}")
    await ledger(admin)


async def swap(client: AsyncOpenAI, admin: httpx.AsyncClient, timings: Timings) -> None:
    out.rule(f"4. {EMBED} under the same budget")
    await ledger(admin)
    began = time.monotonic()
    async with reasons(admin, EMBED):
        found = await client.embeddings.create(model=EMBED, input=["a cat", "a kitten", "a tax form"])
    timings.note("swap: request to answer from the other model", time.monotonic() - began)
    cat, kitten, form = (row.embedding for row in found.data)
    out.print(f"cat~kitten {_cosine(cat, kitten):.2f}, cat~tax form {_cosine(cat, form):.2f}")
    await ledger(admin)
    events = (await admin.get("/admin/events")).json()["events"]
    for event in events[-6:]:
        why = " ".join(f"{key}={value}" for key, value in event["detail"].items() if key in {"reason", "for"} and value)
        at = time.strftime("%H:%M:%S", time.localtime(event["at"]))
        out.print(f"  [dim]{at}[/dim] {event['subject']} {event['kind']} {why}")


def _cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return float(dot / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5)


def leftovers() -> list[str]:
    """Processes that carry our engines' label."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(STATE) in " ".join(process.cmdline()) and process.pid != os.getpid():
                found.append(f"{process.pid} {process.name()}")
        except psutil.Error:
            continue
    return found


async def main() -> None:
    shutil.rmtree(STATE, ignore_errors=True)
    timings = Timings()
    began = time.monotonic()
    async with service() as address:
        out.print(f"The service listens at {address}; any OpenAI client works with base_url={address}/v1")
        async with httpx.AsyncClient(base_url=address, timeout=30) as admin:
            client = AsyncOpenAI(base_url=f"{address}/v1", api_key="none", timeout=1800, max_retries=0)
            await first_answer(client, admin, timings)
            await two_streams(client, timings)
            await pictures(client, admin, timings)
            await swap(client, admin, timings)
            await client.close()
        stopping = time.monotonic()
    timings.note("stop everything", time.monotonic() - stopping)
    timings.note("the whole demo", time.monotonic() - began)
    timings.show()
    left = leftovers()
    if left:
        raise SystemExit(f"left behind: {left}")
    shutil.rmtree(STATE)
    out.print("Nothing is left behind. `make serve` keeps the service up.")


if __name__ == "__main__":
    asyncio.run(main())
