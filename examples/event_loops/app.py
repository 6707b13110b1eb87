"""A shop's API, to compare event loops and HTTP parsers under: it neither journals nor has background work."""

import asyncio
from typing import Any

from fastapi import FastAPI

app = FastAPI()


@app.get("/health")
async def health() -> dict[str, str]:
    """Say that it can do work: it needs nothing."""
    return {"status": "up"}


@app.get("/items")
async def items() -> list[dict[str, Any]]:
    """Return a page of items."""
    return [{"id": number, "name": f"item {number}", "price": number * 1.5} for number in range(50)]


@app.post("/orders", status_code=201)
async def order(order: dict[str, Any]) -> dict[str, Any]:
    """Take an order, as slow as a database that is close."""
    await asyncio.sleep(0.005)
    return {"ordered": order}
