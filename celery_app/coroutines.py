"""Running coroutines in Celery, whose pools know none: one event loop is kept per process or thread.

``asyncio.run`` per task would close the loop after each, and with it every database connection.
"""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

from workload.store import close_store, open_store

_local = threading.local()
_runners: list[asyncio.Runner] = []


def open_here() -> None:
    """Open this thread's event loop and its database connection, so that the first task need not."""
    _runner()


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end on this thread's event loop; return its result or raise what it raises."""
    return _runner().run(coroutine)


def close() -> None:
    """Close every event loop of this process with its database connection; no task may be running."""
    while _runners:
        runner = _runners.pop()
        runner.run(close_store())
        runner.close()


def _runner() -> asyncio.Runner:
    """Return this thread's runner. Its loop has one database connection, for a slot runs one task at a time."""
    if not hasattr(_local, "runner"):
        _local.runner = asyncio.Runner()
        _runners.append(_local.runner)
        _local.runner.run(open_store(max_connections=1))
    runner: asyncio.Runner = _local.runner
    return runner
