"""Keeping CPUs awake: the host of a virtual machine gives an idle CPU to others, and gives it back late.

Whoever sleeps until a request is due then wakes milliseconds too late, whatever its priority.
``python -m lab.awake CPU PARENT`` keeps one CPU awake until it is ended, or the process that started it is gone. It
takes nothing from anybody: it runs while nobody else wants the CPU, and passes it on at every step.
"""

import os
import sys
from pathlib import Path

from lab.priority import step_back

STEPS = 10_000  # between two looks for who started it


def is_due(cpuinfo: Path = Path("/proc/cpuinfo"), quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> bool:
    """Return whether CPUs are to be kept awake: on a virtual machine, as far as the kernel says.

    Not where the CPU time of a container is limited, which this would use up, nor where the whole process has stepped
    back, and not only threads of it: what it starts would be of no higher rank than what keeps its CPUs awake.
    """
    if _has_stepped_back():
        return False
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    limited = quota.exists() and not quota.read_text().startswith("max")
    return not limited and any("hypervisor" in line.split() for line in lines if line.startswith("flags"))


def _has_stepped_back() -> bool:
    return hasattr(os, "SCHED_IDLE") and os.sched_getscheduler(os.getpid()) == os.SCHED_IDLE  # of the main thread


def command(cpu: int, parent: int) -> list[str]:
    """Return what keeps a CPU awake, started by the process of that pid."""
    return [sys.executable, "-m", "lab.awake", str(cpu), str(parent)]


def keep(cpu: int, parent: int) -> None:
    """Keep a CPU awake; not where the process cannot step back for everybody else."""
    os.sched_setaffinity(0, [cpu])
    step_back()
    while _has_stepped_back() and os.getppid() == parent:
        for _ in range(STEPS):
            os.sched_yield()


if __name__ == "__main__":
    keep(int(sys.argv[1]), int(sys.argv[2]))
