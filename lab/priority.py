"""Stepping back: the lab's own work must make neither the load generator late nor a contender slow.

And stepping forward: a server whose latency is to be known exactly must not be kept waiting by anybody.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:  # whoever only steps back is spared the import
    from lab.rundir import Placement

T = TypeVar("T")


def step_back() -> None:
    """Let the calling thread run only while nobody else wants its CPU, where the system can do that.

    The lab shares its CPUs with the generator, and a thread of equal rank would keep that waiting for up to a time
    slice, some milliseconds. There may be no way back, and whatever the thread starts is of its rank, since
    SCHED_RESET_ON_FORK resets real-time policies alone.
    """
    if hasattr(os, "SCHED_IDLE"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def step_forward() -> None:
    """Let the calling thread run before all that have no real-time policy, where it may do that."""
    if hasattr(os, "sched_setscheduler"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))


def stepped_back(work: Callable[[], T]) -> T:
    """Do something in a thread of its own that has stepped back. What is measured must be started by others."""

    def step_back_and_work() -> T:
        step_back()
        return work()

    with ThreadPoolExecutor(1, thread_name_prefix="stepped-back") as thread:
        return thread.submit(step_back_and_work).result()


@contextmanager
def off_the_contenders_cpus(placement: "Placement") -> Iterator[None]:
    """Keep the calling thread, and the threads that it starts, on the generator's CPUs.

    Reading what the kernel knows of a process takes a few milliseconds that nobody interrupts: on the contender's CPU
    an answer waits for it.
    """
    if not placement.pinned:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, placement.generator)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
