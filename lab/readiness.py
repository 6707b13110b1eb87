"""When a stack can do work again, to the same fine resolution for all: of questions begun often, the first yes counts.

An answer may take long. A Celery API asks its workers and waits a second for one of them, and a worker that comes up
meanwhile never hears of that: only the next question finds it.
"""

import threading
import time
from collections.abc import Callable

# Often enough to tell contenders apart; a question costs a Celery API about 10 ms of the CPU that its workers start on.
ASK_EVERY_S = 0.2
# More than come together where each takes the second; and an API that hangs is not flooded.
AT_ONCE = 8


def wait_until_ready(is_ready: Callable[[], bool], within_s: float, over: threading.Event) -> bool:
    """Return True with the first yes; False where none comes in that time, or it is ``over`` before."""
    ready, free = threading.Event(), threading.Semaphore(AT_ONCE)

    def ask() -> None:
        try:
            if is_ready():
                ready.set()
        finally:
            free.release()

    deadline = time.monotonic() + within_s
    while not over.is_set() and time.monotonic() < deadline:
        if free.acquire(blocking=False):
            threading.Thread(target=ask, name="readiness", daemon=True).start()
        if ready.wait(ASK_EVERY_S):
            return True
    return False
