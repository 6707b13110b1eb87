"""Stepping back: the lab's own work must not make the load generator late."""

import os
from contextlib import suppress


def step_back() -> None:
    """Let the calling thread run only while nobody else wants its CPU, where the system can do that.

    The lab shares its CPUs with the generator, and a thread of equal rank would keep that waiting for up to a time
    slice, some milliseconds. What the thread starts has the usual rank.
    """
    if hasattr(os, "SCHED_IDLE"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE | os.SCHED_RESET_ON_FORK, os.sched_param(0))
