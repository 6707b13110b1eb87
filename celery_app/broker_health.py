"""Whether the broker is up, and whether a worker answers."""

import anyio
from anyio import CapacityLimiter
from kombu.exceptions import OperationalError

from celery_app.publisher import TRANSPORT_OPTIONS
from celery_app.worker import app
from workload.schemas import Health

WORKER_TIMEOUT_S = 1.0
BOUND_S = 2.5

# Threads of its own: hanging publishes must not hide the reason why they hang.
_threads = CapacityLimiter(8)


async def states() -> Health:
    """Return whether broker and workers are up, within BOUND_S seconds."""
    with anyio.move_on_after(BOUND_S):
        return await anyio.to_thread.run_sync(_ask, limiter=_threads, abandon_on_cancel=True)
    return {"broker": "down", "workers": "down"}


def _ask() -> Health:
    try:
        with app.connection_for_write(transport_options=TRANSPORT_OPTIONS) as connection:
            replies = app.control.ping(timeout=WORKER_TIMEOUT_S, limit=1, connection=connection)
    except OperationalError:
        return {"broker": "down", "workers": "down"}
    return {"broker": "up", "workers": "up" if replies else "down"}
