"""Images in chats: checked and inlined for models that see, refused by field for those that do not."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from service import Service, model
from uploads import bad_pictures, data_url, odd_pictures, png, web_server

from engines.simulated.pictures import seen
from engines.simulated.text import expected_answer

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """One service for the module that may fetch from this machine: `see` reads images, `chat` text only."""
    service = Service(tmp_path_factory.mktemp("chat-images"))
    service.write(
        model("chat", aliases=["talk"]),
        model("see", model_type="image2text"),
        model("both", model_type=["text2text", "image2text"], priority=10),
        media={"allow_private_addresses": True, "max_image_megapixels": 4},
    )
    await service.start()
    yield service
    await service.end()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a web server on this machine that has a picture, and a text that claims to be one."""
    with web_server(tmp_path_factory.mktemp("site"), red=png(), text=b"plain text") as address:
        yield address


def talk(*urls: str, text: str = "what is it") -> list[Any]:
    """One user message with images."""
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [{"type": "text", "text": text}, *images]}]


def answer_to(*pictures: bytes, text: str = "what is it", tokens: int = 4) -> str:
    """What a model says that saw exactly these bytes, in this order."""
    return expected_answer("\n".join([text, *map(seen, pictures)]), tokens)


async def refused(service: Service, body: dict[str, Any], path: str = CHAT) -> dict[str, Any]:
    """The 400 in OpenAI's shape."""
    answer = await service.http.post(path, json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return dict(error)


@pytest.mark.parametrize("name", ["see", "both", "image2text"])
async def test_an_image_reaches_the_model_as_it_was_sent(service: Service, name: str) -> None:
    """A plain PNG in a data URL, by id and type, whole and streamed: the answer depends on its very bytes."""
    client = service.openai()
    picture = png()
    messages = talk(data_url(picture))

    whole = await client.chat.completions.create(model=name, messages=messages, max_tokens=4)
    stream = await client.chat.completions.create(model=name, messages=messages, max_tokens=4, stream=True)

    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
    assert whole.choices[0].message.content == text == answer_to(picture)


async def test_the_journal_says_image2text(service: Service) -> None:
    """A chat with an image counts as image2text even where the model does both; without one it is text2text."""
    client = service.openai()
    for messages, kind in ((talk(data_url(png())), "image2text"), (talk(), "text2text")):
        raw = await client.chat.completions.with_raw_response.create(model="both", messages=messages, max_tokens=1)
        assert (await service.request(raw.headers["x-request-id"]))["type"] == kind


async def test_an_address_is_fetched_and_inlined(service: Service, site: str) -> None:
    """http:// beside a data URL: the engine, which fetches nothing, sees both in the caller's order."""
    blue = png(colour="blue")
    messages = talk(f"{site}/red.png", data_url(blue))

    whole = await service.openai().chat.completions.create(model="see", messages=messages, max_tokens=4)

    assert whole.choices[0].message.content == answer_to(png(), blue)


async def test_responses_take_input_image(service: Service, site: str) -> None:
    """The responses API has the address as a plain text."""
    content: Any = [
        {"type": "input_text", "text": "look"},
        {"type": "input_image", "image_url": f"{site}/red.png", "detail": "auto"},
    ]
    answer = await service.openai().responses.create(
        model="see", input=[{"role": "user", "content": content}], max_output_tokens=3
    )

    assert answer.output_text == answer_to(png(), text="look", tokens=3)


@pytest.mark.parametrize("name", odd_pictures())
async def test_odd_pictures_are_made_plain(service: Service, name: str) -> None:
    """CMYK, 16 bit, animated and EXIF-rotated pictures are answered; what the engine saw is another file."""
    picture = odd_pictures()[name]
    messages = talk(data_url(picture, "image/whatever"))

    whole = await service.openai().chat.completions.create(model="see", messages=messages, max_tokens=4)

    content = whole.choices[0].message.content or ""
    assert "[picture:" in content
    assert seen(picture) not in content


@pytest.mark.parametrize("name", bad_pictures())
async def test_a_bad_picture_is_refused_by_its_field(service: Service, name: str) -> None:
    """400 that names the part, before anything is accepted."""
    body = {"model": "see", "messages": talk(data_url(png()), data_url(bad_pictures()[name]))}

    error = await refused(service, body)

    assert error["param"] == "messages.0.content.2.image_url"
    assert error["code"] == "invalid_image"


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("file:///etc/passwd", "unsupported_scheme"),
        ("ftp://example.com/a.png", "unsupported_scheme"),
        ("/etc/passwd", "unsupported_scheme"),
        ("", "unsupported_scheme"),
        ("http://169.254.169.254/latest/meta-data", "image_not_fetched"),
        ("http://127.0.0.1:1/nobody.png", "image_not_fetched"),
        ("http://user:secret@127.0.0.1/a.png", "image_not_fetched"),
        ("data:image/png;base64,####", "invalid_image"),
    ],
)
async def test_an_address_that_cannot_be_had_is_refused(service: Service, url: str, code: str) -> None:
    """Other schemes, link-local addresses and servers that are not there: 400 naming the part."""
    error = await refused(service, {"model": "see", "messages": talk(url)})

    assert (error["param"], error["code"]) == ("messages.0.content.1.image_url", code)


async def test_what_an_address_holds_is_judged_too(service: Service, site: str) -> None:
    """A text behind .png, and a page that is not there."""
    for path in ("text.png", "missing.png"):
        error = await refused(service, {"model": "see", "messages": talk(f"{site}/{path}")})
        assert error["param"] == "messages.0.content.1.image_url"


@pytest.mark.parametrize("name", ["chat", "talk"])
async def test_a_text_model_refuses_images_by_field(service: Service, name: str) -> None:
    """400 that names the first image and where to find a model that sees; nothing is fetched for it."""
    error = await refused(service, {"model": name, "messages": talk("http://127.0.0.1:1/x.png")})

    assert (error["code"], error["param"]) == ("images_not_supported", "messages.0.content.1.image_url")
    assert "image2text" in error["message"]


def _hidden(messages: list[Any]) -> bytes:
    """The same JSON with every letter of its keys escaped, so that no byte of `image_url` is in it."""
    text = json.dumps({"model": "see", "messages": messages, "max_tokens": 1})
    spelled = "".join(f"\\u{ord(letter):04x}" for letter in "image_url")
    return text.replace('"image_url":', f'"{spelled}":').replace('"image_url"', f'"{spelled}"').encode()


async def test_escaping_does_not_hide_an_address(service: Service) -> None:
    """JSON may spell any key with escapes; the engine would read them, so we do too."""
    body = _hidden(talk("http://169.254.169.254/"))
    assert b"image_url" not in body

    answer = await service.http.post(CHAT, content=body)

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "image_not_fetched")


PRIVATE = "http://169.254.169.254/"


@pytest.mark.parametrize(
    ("part", "param"),
    [
        pytest.param({"image_url": PRIVATE}, "image_url", id="no type"),
        pytest.param({"type": "text", "text": "x", "image_url": PRIVATE}, "image_url", id="another type"),
        pytest.param({"type": "image", "source": {"type": "url", "url": PRIVATE}}, "source", id="a source"),
        pytest.param({"type": "tool_result", "content": [{"image_url": PRIVATE}]}, "content.0.image_url", id="deeper"),
        pytest.param({"type": "video_url", "video_url": {"url": PRIVATE}}, "video_url", id="video"),
        pytest.param({"type": "audio_url", "audio_url": {"url": PRIVATE}}, "audio_url", id="audio"),
        pytest.param(
            {"type": "video_url", "image_url": data_url(png()), "video_url": {"url": PRIVATE}}, "image_url", id="both"
        ),
        pytest.param({"type": "input_image", "file_id": "file-1"}, "file_id", id="a file id"),
    ],
)
async def test_no_form_of_a_part_lets_an_engine_fetch(service: Service, part: dict[str, Any], param: str) -> None:
    """Engines go by keys as much as by type; each way to name an address is refused by its place."""
    body = {"model": "see", "messages": [{"role": "user", "content": [part]}]}
    error = await refused(service, body)
    assert error["param"] == f"messages.0.content.0.{param}"


@pytest.mark.parametrize("path", ["/v1/responses", "/tokenize", "/v1/messages"])
async def test_other_paths_are_watched_too(service: Service, path: str) -> None:
    """Whatever renders a chat could fetch."""
    messages = talk(PRIVATE)
    error = await refused(service, {"model": "see", "messages": messages, "input": messages, "max_tokens": 1}, path)
    assert error["code"] == "image_not_fetched"


async def test_too_many_images_are_refused(service: Service) -> None:
    """Sixteen pass, seventeen do not."""
    url = data_url(png((1, 1)))
    sixteen = {"model": "see", "messages": talk(*[url] * 16), "max_tokens": 1}
    assert (await service.http.post(CHAT, json=sixteen)).status_code == 200

    error = await refused(service, {"model": "see", "messages": talk(*[url] * 17)})

    assert (error["code"], error["param"]) == ("too_many_images", "messages.0.content.17.image_url")


async def test_a_schema_that_speaks_of_images_is_no_image(service: Service) -> None:
    """A tool with a parameter called image_url passes a text model untouched, and so does the word in a prompt."""
    schema = {"type": "object", "properties": {"image_url": {"type": "string"}}}
    tools: Any = [{"type": "function", "function": {"name": "show", "parameters": schema}}]
    messages: Any = [{"role": "user", "content": "an image_url"}]

    whole = await service.openai().chat.completions.create(model="chat", messages=messages, tools=tools, max_tokens=3)

    assert whole.choices[0].message.content == expected_answer("an image_url", 3)


async def test_many_callers_each_see_their_own(service: Service) -> None:
    """Thirty chats with thirty pictures at once: each answer is to its own picture."""
    client = service.openai()

    async def one(number: int) -> None:
        picture = png((number + 1, 3))
        whole = await client.chat.completions.create(model="see", messages=talk(data_url(picture)), max_tokens=4)
        assert whole.choices[0].message.content == answer_to(picture)

    async with asyncio.TaskGroup() as group:
        for number in range(30):
            group.create_task(one(number))
