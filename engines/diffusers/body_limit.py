"""Refuses bodies that are too large, by their announced length or while they are read."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engines.diffusers.refusals import too_large


class BodyLimit:
    """ASGI middleware; the refusal is raised where the body is read."""

    def __init__(self, app: ASGIApp, limit_mib: int) -> None:
        self._app = app
        self._limit_mib = limit_mib

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        read = 0

        async def limited() -> Message:
            nonlocal read
            if int(announced) > self._limit_mib * 2**20:
                raise too_large(self._limit_mib)
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._limit_mib * 2**20:
                raise too_large(self._limit_mib)
            return message

        await self._app(scope, limited, send)
