"""The jobs: plain functions that do the work of the API's routes and know nothing of who runs them.

Each takes the id of its task, and leaves an effect that carries it. Whatever a job raises means that its task failed.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from workload import documents, mail
from workload.effects import log_action, record_effect
from workload.settings import settings
from workload.store import store


class AskedToFailError(Exception):
    """A step or a probe failed because the request asked for it."""


def write_log(message: str, *, task_id: UUID) -> None:
    """Append a message to the action log."""
    log_action(task_id, message)


def send_email(email: str, subject: str, body: str, *, task_id: UUID) -> None:
    """Send a mail. Raises ValueError for an address that is none, OSError if the mail server does not take it."""
    mail.send(mail.compose(email, subject, body, task_id=task_id))


def step(number: int, fail: bool, *, task_id: UUID) -> None:
    """Do one step of a sequence, or raise AskedToFailError."""
    if fail:
        raise AskedToFailError(f"step {number} was asked to fail")
    record_effect(task_id, "step", number=number)


async def async_task(name: str, seconds: float, *, task_id: UUID) -> None:
    """Await ``seconds``."""
    await asyncio.sleep(seconds)
    record_effect(task_id, "async_task", name=name)


async def process_document(document_id: str, path: str, *, task_id: UUID) -> None:  # noqa: ARG001 - the row has it
    """Make an uploaded file searchable: extract its text, cut it into chunks, embed and store them.

    Doing it twice leaves one set of chunks. The file is removed once the document is ready or failed; it stays if
    PostgreSQL is away (StoreUnavailable), so that another attempt can succeed. Raises DocumentError if the document
    failed; the reason is in its row then.
    """
    await documents.process(UUID(document_id), Path(path))


async def log_conversation(user_id: str, message: str, response: str, *, task_id: UUID) -> None:
    """Store one turn of a conversation; doing it twice leaves one. Raises StoreUnavailable."""
    await store().log_conversation(task_id, user_id, message, response)


async def probe_io(seconds: float, *, task_id: UUID) -> None:
    """Await, as a call to another service would."""
    await asyncio.sleep(seconds)
    record_effect(task_id, "probe_io")


def probe_blocking(seconds: float, *, task_id: UUID) -> None:
    """Sleep in the thread, as a blocking driver would."""
    time.sleep(seconds)
    record_effect(task_id, "probe_blocking")


def probe_cpu(seconds: float, *, task_id: UUID) -> None:
    """Compute for ``seconds`` of this thread's own CPU time."""
    end_s = time.thread_time() + seconds
    while time.thread_time() < end_s:
        sum(range(1_000))
    record_effect(task_id, "probe_cpu")


async def probe_async_blocking(seconds: float, *, task_id: UUID) -> None:
    """Sleep inside a coroutine and so stop the event loop: the classic mistake."""
    time.sleep(seconds)  # noqa: ASYNC251 - the mistake is the point
    record_effect(task_id, "probe_async_blocking")


def probe_fail(seconds: float, *, task_id: UUID) -> None:
    """Sleep, then raise AskedToFailError."""
    time.sleep(seconds)
    raise AskedToFailError(f"the probe of task {task_id} was asked to fail")


def probe_crash(seconds: float, *, task_id: UUID) -> None:
    """Sleep, then kill the process it runs in. Raises PermissionError unless ``ALLOW_CRASH`` is set."""
    if not settings().allow_crash:
        raise PermissionError(f"task {task_id} may not crash its process: ALLOW_CRASH is not set")
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)


PROBES: dict[str, Callable[..., Any]] = {
    "io": probe_io,
    "blocking": probe_blocking,
    "cpu": probe_cpu,
    "async_blocking": probe_async_blocking,
    "fail": probe_fail,
    "crash": probe_crash,
}
