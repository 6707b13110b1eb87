"""Promptness: the generator wakes for a moment at each arrival, and must not wait for those who compute for longer."""

import os


def be_prompt() -> bool:
    """Have the calling thread run at once whenever it wakes, whatever shares its CPU; say whether that was granted.

    It is to root, and to whoever else may ask for a real-time policy (CAP_SYS_NICE, or RLIMIT_RTPRIO), and is not
    inherited. Otherwise the thread takes turns: when a worker with forty connections is killed, the forty backends of
    PostgreSQL that end then take 30 ms, each of them as good as the generator to the scheduler.
    """
    if not hasattr(os, "sched_setscheduler"):
        return False
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except OSError:  # no right to it, or a system that has none
        return False
    return True
