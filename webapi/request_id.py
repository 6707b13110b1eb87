"""Request ids: taken from the client or drawn here, and carried back on every answer."""

from collections.abc import Awaitable, Callable
from typing import Annotated
from uuid import UUID, uuid4

from fastapi import Header
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "x-request-id"
UUIDS = TypeAdapter(UUID)  # what the endpoints judge by: `uuid.UUID` takes more for one

RequestId = Annotated[
    UUID,
    Header(
        alias="X-Request-ID",
        default_factory=uuid4,
        description="The ids of tasks and document are derived from it; drawn by the server where it is missing.",
    ),
]


async def check_request_id(request_id: RequestId) -> None:
    """Refuse (422) a request whose id is not a UUID, also where the endpoint has no use for it."""


class RequestIds:
    """ASGI middleware: gives an id to a request that has none and sends the id back with whatever is answered."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; the only answer without an id is the one to an id that is not a UUID."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        sent = Headers(scope=scope).get(HEADER)
        if sent is None:
            sent = str(uuid4())
            scope = {**scope, "headers": [*scope["headers"], (HEADER.encode(), sent.encode())]}
        try:
            request_id = UUIDS.validate_python(sent)
        except ValidationError:
            return await self.app(scope, receive, send)
        return await self.app(scope, receive, _carrying(request_id, send))


def _carrying(request_id: UUID, send: Send) -> Callable[[Message], Awaitable[None]]:
    async def send_with_id(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)[HEADER] = str(request_id)
        await send(message)

    return send_with_id
