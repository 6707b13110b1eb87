"""Publishing: how the API hands work to the broker without blocking its event loop, and how sure it is afterwards.

Nothing here tries again. A second try could answer "connection refused" when the first has already delivered, and so
turn an unknown outcome into a refusal.
"""

import os
import threading
from typing import Any

import anyio
from anyio import CapacityLimiter
from celery.canvas import Signature
from kombu.exceptions import OperationalError
from kombu.pools import ProducerPool
from pydantic import TypeAdapter

from celery_app.worker import app
from webapi.refusals import NotHandedOver, OutcomeUnknown

# As many publishes may hang at once, each with a thread and a connection; the rest of the API has other threads.
PUBLISHERS = 64
# The broker gets a second to take a connection and a second for each reply. A publish fails with the first that is
# late, so it ends well before the bound, which is for what has no time-out (looking up a host name) or got no thread.
STEP_TIMEOUT_S = 1.0
BOUND_S = 2.5
TRANSPORT_OPTIONS = {
    "socket_connect_timeout": STEP_TIMEOUT_S,
    "socket_timeout": STEP_TIMEOUT_S,
    "retry_on_timeout": False,
    "max_retries": 0,
}

# How it is often written, to be compared with the rest of this file: Celery's own call, in the event loop. It waits for
# the broker without a bound, tries again, and nothing else happens in this process meanwhile.
NAIVE = TypeAdapter(bool).validate_python(os.environ.get("NAIVE_PUBLISH", "0"))

_threads = CapacityLimiter(PUBLISHERS)
_connections = app.connection_for_write(transport_options=TRANSPORT_OPTIONS).Pool(limit=PUBLISHERS)
_producers = ProducerPool(_connections, limit=PUBLISHERS)


async def publish(signature: Signature[Any]) -> None:
    """Hand a task or a chain to the broker.

    Raises NotHandedOver where no connection came about or no thread was free, OutcomeUnknown for anything later,
    both within BOUND_S seconds. With NAIVE_PUBLISH=1 it raises what Celery raises, whenever that is.
    """
    if NAIVE:
        signature.apply_async()
        return
    attempt = _Attempt(signature)
    try:
        with anyio.fail_after(BOUND_S):
            await anyio.to_thread.run_sync(attempt.make, limiter=_threads, abandon_on_cancel=True)
    except TimeoutError:
        if attempt.prevent():
            raise NotHandedOver("The broker is busy; the work was not handed over.") from None
        raise OutcomeUnknown("The broker did not answer in time; the work may have been handed over.") from None
    except OperationalError as error:
        if _no_connection(error):
            raise NotHandedOver("The broker cannot be reached; the work was not handed over.") from error
        raise OutcomeUnknown("The broker failed to answer; the work may have been handed over.") from error


def close() -> None:
    """Close the connections to the broker."""
    _connections.force_close_all()


class _Attempt:
    """One publish. Whoever takes the lock first decides whether it is made at all: the thread, or who waited for it."""

    def __init__(self, signature: Signature[Any]) -> None:
        self._signature = signature
        self._begun = threading.Lock()

    def make(self) -> None:
        # Neither waiting for a producer nor getting one talks to the broker yet.
        with _producers.acquire(block=True) as producer:
            if self._begun.acquire(blocking=False):
                # A chain would take a producer of Celery's own, without our bounds: its first task is sent here, with
                # the others in the message, last first, as the task protocol has it.
                first, *later = getattr(self._signature, "tasks", [self._signature])
                first.apply_async(producer=producer, retry=False, chain=later[::-1] or None)

    def prevent(self) -> bool:
        """Return whether the attempt had not begun; then it never will."""
        return self._begun.acquire(blocking=False)


def _no_connection(error: BaseException | None) -> bool:
    """Return whether it was the connecting that failed: redis-py says so in the message only."""
    while error is not None:
        if type(error).__module__ == "redis.exceptions" and "connecting to" in str(error):
            return True
        error = error.__cause__
    return False
