"""The journal: what happened to each task, one JSON line per event, written so that a SIGKILL loses none.

A file belongs to one process: ``DATA_DIR/journal/<service>-<hostname>-<pid>-<start nonce>.jsonl``. Its first line
anchors the monotonic clock: ``{boot_id, wall_ns, monotonic_ns, service}``. Every other line is an event:
``{task_id, job, event, t_ns, attempt, error?}`` with ``t_ns`` by ``CLOCK_MONOTONIC``.
"""

import inspect
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from functools import cache, wraps
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from workload.settings import settings

MAX_ERROR_CHARS = 500
as_json = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would make an encoder of each event

Event = Literal["accepted", "started", "succeeded", "attempt_failed", "failed", "given_up", "skipped"]


class Journal:
    """The journal file of one process.

    One event is one ``write`` to a file opened with ``O_APPEND``: the kernel has it before the call returns, so
    it survives the death of the process (not of the machine).
    """

    def __init__(self, directory: Path, service: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        name = f"{service}-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        self.path = directory / name
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._append(
            {
                "boot_id": boot_id(),
                "wall_ns": time.time_ns(),
                "monotonic_ns": time.monotonic_ns(),
                "service": service,
            }
        )

    def write(self, task_id: UUID, job: str, event: Event, *, attempt: int = 1, error: str | None = None) -> None:
        """Append one event, stamped now; none where the journal is off."""
        if not settings().journal:
            return
        line: dict[str, Any] = {
            "task_id": str(task_id),
            "job": job,
            "event": event,
            "t_ns": time.monotonic_ns(),
            "attempt": attempt,
        }
        if error is not None:
            line["error"] = error.encode(errors="replace").decode()  # half a surrogate pair is no JSON for all readers
        self._append(line)

    def close(self) -> None:
        """Close the file; later events of this process need a new journal."""
        os.close(self._fd)

    def _append(self, line: dict[str, Any]) -> None:
        os.write(self._fd, as_json(line).encode() + b"\n")


@cache
def boot_id() -> str:
    """Return the kernel's id of this boot; ``CLOCK_MONOTONIC`` compares only within one. Empty where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


_service = "work"
_journal: Journal | None = None


def open_journal(service: str) -> Journal:
    """Open this process's journal under the name of its service (``inline-api``, ``celery-worker``, …)."""
    global _service, _journal
    _service = service
    _journal = Journal(settings().data_dir / "journal", service)
    return _journal


def journal() -> Journal:
    """Return this process's journal; a forked child gets one of its own."""
    return _journal if _journal is not None else open_journal(_service)


def _forget_after_fork() -> None:
    global _journal
    _journal = None


os.register_at_fork(after_in_child=_forget_after_fork)


def accepted(job: Callable[..., Any], *task_ids: UUID) -> None:
    """Journal that tasks were handed over: added to the response, published to the broker, or committed."""
    for task_id in task_ids:
        journal().write(task_id, job.__name__, "accepted")


def journaled(job: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a job so that its start and end are journaled; nothing else about it changes.

    The wrapper is called as ``run(task_id, *args, then=())`` and calls ``job(*args, task_id=task_id)``. It is a
    coroutine function where the job is one. ``then`` are the ids of the later steps of a sequence: if the job
    raises, they are journaled as skipped. The exception goes on to whoever runs the job.
    """
    if inspect.iscoroutinefunction(job):
        return _journaled_coroutine(job)
    return _journaled_function(job)


def _journaled_function(job: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(job)
    def run(task_id: UUID, *args: Any, then: Sequence[UUID] = ()) -> Any:
        journal().write(task_id, job.__name__, "started")
        try:
            result = job(*args, task_id=task_id)
        except BaseException as error:
            _journal_failure(job, task_id, error, then)
            raise
        journal().write(task_id, job.__name__, "succeeded")
        return result

    return run


def _journaled_coroutine(job: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(job)
    async def run(task_id: UUID, *args: Any, then: Sequence[UUID] = ()) -> Any:
        journal().write(task_id, job.__name__, "started")
        try:
            result = await job(*args, task_id=task_id)
        except BaseException as error:
            _journal_failure(job, task_id, error, then)
            raise
        journal().write(task_id, job.__name__, "succeeded")
        return result

    return run


def _journal_failure(job: Callable[..., Any], task_id: UUID, error: BaseException, then: Sequence[UUID]) -> None:
    """Journal a failure, and the later steps that it stops."""
    journal().write(task_id, job.__name__, "failed", error=f"{type(error).__name__}: {error}"[:MAX_ERROR_CHARS])
    for later in then:
        journal().write(later, job.__name__, "skipped")
