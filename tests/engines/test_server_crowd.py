"""Many callers at once, some of whom hang up or change their mind: nobody gets another's picture, nothing is left."""

import random
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from engines.diffusers.jobs import ImageJob
from tests.engines.painter import painted
from tests.engines.pictures_sent import received
from tests.engines.server_process import PAINTER, ServerProcess, server

GENERATIONS = "/v1/images/generations"
ENDLESS = 1_000_000
CALLERS, CALLS = 12, 8


@dataclass(frozen=True)
class Caller:
    """One of the crowd; what it does follows from its number."""

    process: ServerProcess
    number: int

    def run(self) -> int:
        """The number of pictures that it got; asserts that they are its own."""
        choose = random.Random(self.number)
        with self.process.client() as client:
            return sum(self._call(client, choose, call) for call in range(CALLS))

    def _call(self, client: httpx.Client, choose: random.Random, call: int) -> int:
        name, prompt, seed = f"{self.number}.{call}", f"caller {self.number}", choose.randrange(2**32)
        body = {"prompt": prompt, "seed": seed, "n": choose.randint(1, 3), "steps": choose.randint(1, 30)}
        headers = {"X-Request-Id": name, "X-Priority": str(choose.randint(0, 100))}
        match choose.choice(["whole", "whole", "hang up", "impatient", "delete"]):
            case "hang up":
                body |= {"stream": True, "partial_images": 1, "steps": ENDLESS}
                with client.stream("POST", GENERATIONS, json=body, headers=headers) as answer:
                    next(answer.iter_lines())
            case "impatient":
                with self.process.client() as own, pytest.raises(httpx.ReadTimeout):
                    own.post(
                        GENERATIONS,
                        json=body | {"steps": ENDLESS},
                        headers=headers,
                        timeout=httpx.Timeout(60, read=0.05),
                    )
            case "delete":
                body |= {"stream": True, "partial_images": 1, "steps": ENDLESS}
                with client.stream("POST", GENERATIONS, json=body, headers=headers) as answer:
                    lines = answer.iter_lines()
                    next(lines)
                    with self.process.client() as other:
                        assert other.delete(f"/v1/requests/{name}").status_code == 200
                    assert '"cancelled"' in "".join(lines)
            case _:
                return self._whole(client, body, headers)
        return 0

    def _whole(self, client: httpx.Client, body: dict[str, object], headers: dict[str, str]) -> int:
        answer = client.post(GENERATIONS, json=body, headers=headers)
        assert answer.status_code == 200, answer.text[:300]
        assert answer.headers["x-request-id"] == headers["X-Request-Id"]
        for index, datum in enumerate(answer.json()["data"]):
            own = painted(_job(str(body["prompt"]), datum["seed"]))
            assert received(answer.json(), index).getpixel((0, 0)) == own.getpixel((0, 0))
        assert client.get(f"/v1/requests/{headers['X-Request-Id']}/result").content == answer.content
        return len(answer.json()["data"])


def _job(prompt: str, seed: int) -> ImageJob:
    return ImageJob("", 50, prompt, "", 64, 64, 1, 1.0, None, seed)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[ServerProcess]:
    options = {"max_steps": ENDLESS, "max_batch_size": 4}
    with server(PAINTER, tmp_path, model_path=tmp_path, **options) as running:
        yield running.wait_until_ready()


def test_nobody_gets_anothers_picture(process: ServerProcess) -> None:
    """Each picture is that of its seed and prompt; in the end nothing runs or waits, and the stop is clean."""
    with ThreadPoolExecutor(CALLERS) as crowd:
        drawn = sum(crowd.map(Caller.run, [Caller(process, number) for number in range(CALLERS)]))
    assert drawn > CALLERS
    with process.client() as client:
        page = ""
        while "\ndiffusers_requests_running 0.0\n" not in page or "\ndiffusers_requests_waiting 0.0\n" not in page:
            page = client.get("/metrics").text
    check_clean_stop(process)


@pytest.mark.parametrize("path", [GENERATIONS, "/v1/images/edits", "/v1/images/process"])
def test_hanging_up_in_the_midst_of_a_body(process: ServerProcess, path: str) -> None:
    """A caller who goes away before its body is whole leaves nothing behind, not even a traceback."""
    for kind in ("application/json", "multipart/form-data; boundary=x"):
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(process.address)
            head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\ncontent-length: 1000\r\n\r\n"
            caller.sendall(head.encode() + b"--x\r\n")
    with process.client() as client:
        assert client.get("/health").status_code == 200
    check_clean_stop(process)


def check_clean_stop(process: ServerProcess) -> None:
    process.terminate()
    assert process.wait() == 0
    assert not [line for line in process.log if "Traceback" in line], "\n".join(process.log)
