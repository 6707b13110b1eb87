"""The app object: ``uvicorn inline_app.main:app``."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from inline_app.routes import router
from webapi.app import create_app, serving


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Serve; uvicorn waits for running background tasks before this ends."""
    async with serving("inline-api"):
        yield


app = create_app("The work done by BackgroundTasks", router, lifespan)
