"""The app object both APIs are made with, and what each does before its first request and after its last."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.types import Lifespan

from webapi import documented, refusals
from webapi.body_limit import BodyLimit
from webapi.request_id import RequestIds
from webapi.uploads import MAX_FILE_BYTES
from workload import process
from workload.store import close_store, open_store

MAX_JSON_BYTES = 64 * 1024
# What multipart puts around the file; the file itself is measured when it has arrived.
MULTIPART_BYTES = 64 * 1024
DATABASE_CONNECTIONS = 10


def create_app(title: str, router: APIRouter, lifespan: Lifespan[FastAPI]) -> FastAPI:
    """Return an app with the routes, limits and refusals of the contract."""
    app = FastAPI(
        title=title,
        version="1",
        lifespan=lifespan,
        responses=documented.EVERYWHERE,
        # A redirect would be an answer that no route announces.
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
    )
    app.add_middleware(
        BodyLimit, default_bytes=MAX_JSON_BYTES, path_bytes={"/upload": MAX_FILE_BYTES + MULTIPART_BYTES}
    )
    app.add_middleware(RequestIds)
    refusals.install(app)
    app.include_router(router)
    return app


@asynccontextmanager
async def serving(service: str) -> AsyncIterator[None]:
    """Prepare this process for requests, and leave nothing open afterwards."""
    process.prepare(service)
    await open_store(max_connections=DATABASE_CONNECTIONS)
    try:
        yield
    finally:
        await close_store()


def _operation_id(route: APIRoute) -> str:
    return route.name
