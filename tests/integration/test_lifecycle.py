"""A replica's life by the clock and by order: idle time, pins, preload, load and unload, and the end of the service."""

from chats import ask
from conftest import Serve
from service import model


async def test_a_request_starts_the_model_and_nothing_is_left_after_the_end(serve: Serve) -> None:
    """The first call loads the model and is answered; SIGTERM ends everything with exit status 0."""
    service = await serve(model("a"))

    assert "hello" in await ask(service.openai(), "a", "hello")

    assert (await service.in_state("a-0", "ready"))["reserved_mib"] == 64
    assert await service.stop() == 0
    service.assert_nothing_left()
