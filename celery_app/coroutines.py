"""Running coroutines in Celery, whose pools know none: a process keeps an event loop for each of its slots.

``asyncio.run`` per task would close the loop after each, and with it every database connection. One loop for all the
threads of a process would let a coroutine that blocks hold up the others, which a thread of its own does not.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from workload.store import close_store, open_store

_idle: deque[asyncio.Runner] = deque()


def open_loops(slots: int) -> None:
    """Open an event loop with a database connection for each slot, so that no task need; never before a fork.

    All at the same time: with a PostgreSQL that is silent it takes as long as for one.
    """
    with ThreadPoolExecutor(slots) as threads:
        _idle.extend(threads.map(lambda _: _opened(), range(slots)))


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end on an idle event loop; return its result or raise what it raises."""
    try:
        runner = _idle.pop()
    except IndexError:  # the pool has grown
        runner = _opened()
    try:
        return runner.run(coroutine)
    finally:
        _idle.append(runner)


def close() -> None:
    """Close every event loop of this process with its database connection; no task may be running."""
    while _idle:
        runner = _idle.pop()
        runner.run(close_store())
        runner.close()


def _opened() -> asyncio.Runner:
    """Return a runner whose loop has one database connection, for a slot runs one task at a time."""
    runner = asyncio.Runner()
    runner.run(open_store(max_connections=1))
    return runner
