"""An app that shares no code with the lab, and journals its tasks as docs/own-apps.md asks for.

With ``EFFECTS=1`` it writes the log of effects too, with ``CLOCK=us`` its times are wrong: in microseconds.
"""

import json
import os
import socket
import time
import uuid
from pathlib import Path
from typing import Annotated

import psycopg
from fastapi import BackgroundTasks, FastAPI, Header

DATA = Path(os.environ["DATA_DIR"])
JOURNAL = DATA / "journal" / f"shop-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"

UNIT_NS = 1000 if os.environ.get("CLOCK") == "us" else 1

app = FastAPI()

if url := os.environ.get("DATABASE_URL"):
    with psycopg.connect(url) as connection:  # a table of its own, of a name that the lab's apps use too
        connection.execute("CREATE TABLE documents (title text)")


def note(file: Path, **line: object) -> None:
    """Append a line."""
    with file.open("ab") as lines:
        lines.write(json.dumps(line).encode() + b"\n")


JOURNAL.parent.mkdir(parents=True, exist_ok=True)
boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
note(JOURNAL, boot_id=boot_id, wall_ns=time.time_ns(), monotonic_ns=time.monotonic_ns(), service="shop")


def pack(task_id: str) -> None:
    """Do what an order asks for."""
    for event in ("started", "succeeded"):
        if event == "succeeded" and os.environ.get("EFFECTS"):
            note(DATA / "effects.log", task_id=task_id, job="pack", t_ns=time.monotonic_ns())
        note(JOURNAL, task_id=task_id, job="pack", event=event, t_ns=time.monotonic_ns() // UNIT_NS, attempt=1)


@app.get("/health")
def health() -> str:
    """Say that it is up."""
    return "ok"


@app.post("/orders", status_code=202)
def order(background: BackgroundTasks, x_request_id: Annotated[str, Header()]) -> str:
    """Take an order."""
    background.add_task(pack, str(uuid.uuid5(uuid.UUID(x_request_id), "0")))
    return "accepted"
