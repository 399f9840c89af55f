"""Batches as a caller has them: lines written, uploaded, ordered, waited for, and the results read again."""

import json
from collections.abc import Iterable
from typing import Any

from openai import AsyncOpenAI
from openai.types import Batch
from service import Service, until

CHAT = "/v1/chat/completions"
OVER = ("failed", "completed", "expired", "cancelled")


def line(custom_id: str, body: dict[str, Any], url: str = CHAT) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def chat(custom_id: str, model: str, prompt: str, max_tokens: int = 2) -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens}
    return line(custom_id, body)


def file_of(lines: Iterable[dict[str, Any]]) -> tuple[str, bytes]:
    return "input.jsonl", b"".join(json.dumps(each).encode() + b"\n" for each in lines)


async def order(client: AsyncOpenAI, lines: Iterable[dict[str, Any]], url: Any = CHAT, **options: Any) -> Batch:
    """Upload the lines and order their batch."""
    uploaded = await client.files.create(file=file_of(lines), purpose="batch")
    return await client.batches.create(input_file_id=uploaded.id, endpoint=url, completion_window="24h", **options)


async def ended(service: Service, batch_id: str, timeout: float = 120) -> Batch:
    """As it is once it is over."""
    client = service.openai()

    async def over() -> Batch | None:
        batch = await client.batches.retrieve(batch_id)
        return batch if batch.status in OVER else None

    found = await until(over, timeout, f"{batch_id} over")
    assert found is not None
    return found


async def counted(service: Service, batch_id: str, completed: int, timeout: float = 120) -> Batch:
    """As it is once so many of its lines are done, or all."""
    client = service.openai()

    async def there() -> Batch | None:
        batch = await client.batches.retrieve(batch_id)
        assert batch.request_counts is not None
        return batch if batch.request_counts.completed >= completed or batch.status in OVER else None

    found = await until(there, timeout, f"{completed} lines of {batch_id}")
    assert found is not None
    return found


async def lines_of(service: Service, file_id: str | None) -> list[dict[str, Any]]:
    """Nothing where there is no file."""
    if file_id is None:
        return []
    content = await service.openai().files.content(file_id)
    return [json.loads(each) for each in content.text.splitlines()]
