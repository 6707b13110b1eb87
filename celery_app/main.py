"""The app object: ``uvicorn celery_app.main:app``."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from celery_app import publisher
from celery_app.routes import router
from webapi.app import create_app, serving


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Serve, and close the connections to the broker at the end."""
    try:
        async with serving("celery-api"):
            yield
    finally:
        publisher.close()


app = create_app("The work done by Celery", router, lifespan)
