"""An API that announces too little: one of its answers is in no OpenAPI document, another is a 500."""

from fastapi import FastAPI, HTTPException

app = FastAPI()


@app.get("/teapot")
async def teapot(size: int) -> str:
    """Answer 418 to what is announced as 200."""
    raise HTTPException(418, f"{size} cups")


@app.get("/broken")
async def broken() -> str:
    """Answer 500."""
    raise HTTPException(500, "broken")
