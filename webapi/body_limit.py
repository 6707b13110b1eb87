"""Size limits of request bodies, kept while reading: what is too large is refused before it has all arrived."""

import asyncio
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from webapi.refusals import answer

# How much of a refused body is still read and thrown away, so that a client that reads only after it has sent
# everything meets the answer and not a reset connection. Beyond it the connection is closed.
LINGER_BYTES = 4 * 1024 * 1024
LINGER_S = 1.0


class BodyTooLarge(HTTPException):
    """Raised out of ``receive``; an HTTPException because FastAPI turns any other into 400 while it parses a body."""

    def __init__(self) -> None:
        super().__init__(status_code=413)


class BodyLimit:
    """ASGI middleware: answers 413 to a body over its path's limit, by its declared length or else by counting.

    FastAPI's own ``max_body_size`` answers in plain text and leaves the connection open, so that the server goes
    on reading all of what it has refused.
    """

    def __init__(self, app: ASGIApp, default_bytes: int, path_bytes: Mapping[str, int]) -> None:
        self.app = app
        self.default_bytes = default_bytes
        self.path_bytes = path_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a counting ``receive``, or refuse it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        limit = self.path_bytes.get(scope["path"], self.default_bytes)
        if int(Headers(scope=scope).get("content-length", 0)) > limit:
            return await _refuse(limit, scope, receive, send)
        body = _CountedBody(limit, receive)
        await self.app(scope, body.receive, body.unless_too_large(send))
        if body.too_large:
            await _refuse(limit, scope, receive, send)
        return None


class _CountedBody:
    """One request's body: how much of it has come, and whether that was too much."""

    def __init__(self, limit: int, receive: Receive) -> None:
        self.limit = limit
        self.too_large = False
        self._seen = 0
        self._receive = receive

    async def receive(self) -> Message:
        message = await self._receive()
        self._seen += len(message.get("body", b""))
        if self._seen > self.limit:
            self.too_large = True
            raise BodyTooLarge
        return message

    def unless_too_large(self, send: Send) -> Send:
        """Swallow the app's answer to a body that was too large; the middleware gives its own."""

        async def guarded(message: Message) -> None:
            if not self.too_large:
                await send(message)

        return guarded


async def _refuse(limit: int, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer 413 and close: first the whole answer, then a bounded rest of the body, then the end."""
    response = answer(413, f"The body is larger than {limit} bytes.", {"Connection": "close"})

    async def lingering(message: Message) -> None:
        if message["type"] != "http.response.body":
            return await send(message)
        await send({**message, "more_body": True})
        await _discard(receive)
        return await send({"type": "http.response.body", "body": b""})

    await response(scope, receive, lingering)


async def _discard(receive: Receive) -> None:
    seen = 0
    try:
        async with asyncio.timeout(LINGER_S):
            while seen < LINGER_BYTES:
                message = await receive()
                seen += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return
