"""Whether what both APIs depend on is up: the database and the mail server."""

import asyncio
from typing import Literal
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse

from workload.schemas import Health
from workload.settings import settings
from workload.store import StoreUnavailable, store

SMTP_TIMEOUT_S = 2.0


async def servers() -> Health:
    """Return the state of the servers that both apps share, within 2.5 s."""
    postgres, smtp = await asyncio.gather(_postgres(), _smtp())
    return {"postgres": postgres, "smtp": smtp}


def report(states: Health) -> JSONResponse:
    """Return 200 where everything is up, else 503."""
    return JSONResponse(states, 200 if set(states.values()) == {"up"} else 503)


async def _postgres() -> Literal["up", "down"]:
    try:
        await store().ping()
    except StoreUnavailable:
        return "down"
    return "up"


async def _smtp() -> Literal["up", "down"]:
    server = urlsplit(settings().smtp_url)
    try:
        async with asyncio.timeout(SMTP_TIMEOUT_S):
            greeting, goodbye = await asyncio.open_connection(server.hostname, server.port or 25)
            try:
                return "up" if (await greeting.readline()).startswith(b"220") else "down"
            finally:
                goodbye.close()
    except OSError:  # TimeoutError is one
        return "down"
