"""Whether this machine can be trusted to measure: each check says what it saw and what follows from it."""

import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from lab.clock import StealReading
from lab.environment import available_cpus
from lab.stacks import engine
from lab.stacks.supervisor import StackError

MIN_FREE_BYTES = 2 * 1024**3
MIN_MEMORY_BYTES = 3 * 1024**3
MIN_OPEN_FILES = 4096
MAX_SLEEP_LATENESS_MS = 2.0
MAX_STEAL = 0.05
WATCHED_S = 2.0


@dataclass(frozen=True)
class Finding:
    """What one check saw: ``good``, a ``limit`` on what a run can say, or ``bad``: no run should be believed."""

    verdict: Literal["good", "limit", "bad"]
    subject: str
    sentence: str


def examine(runs: Path) -> list[Finding]:
    """Return the findings of every check; takes about two seconds. ``runs`` is where run directories go."""
    checks: list[Callable[[], Finding]] = [
        cpus,
        pinning,
        idleness,
        timer,
        memory,
        lambda: disk(runs),
        open_files,
        clock,
        containers,
    ]
    return [check() for check in checks]


def cpus() -> Finding:
    """Two CPUs are the least; with two, Celery's use of more cores cannot show."""
    count = len(available_cpus())
    if count < 2:
        return Finding("bad", "CPUs", "one CPU: load and contender would disturb each other; nothing is measured here.")
    if count < 4:
        return Finding(
            "limit",
            "CPUs",
            f"{count}: the contender gets {count - count // 2} of them; Celery's use of more cores cannot show here.",
        )
    return Finding("good", "CPUs", f"{count}")


def pinning() -> Finding:
    """Without affinity, contender and generator compete for CPUs."""
    if hasattr(os, "sched_setaffinity"):
        return Finding("good", "pinning", "processes can be pinned to CPUs.")
    return Finding("limit", "pinning", "this system cannot pin processes to CPUs; the report says so.")


def idleness() -> Finding:
    """CPU time taken away or used by others while nothing of the lab runs; taken of the CPUs that it may use."""
    before = StealReading.now(available_cpus())
    busy = psutil.cpu_percent(interval=WATCHED_S)
    steal = before.share_until(StealReading.now(before.cpus))
    if steal > MAX_STEAL:
        return Finding("bad", "idleness", f"{steal:.0%} of the CPU time is stolen by the hypervisor.")
    if busy > 20:
        return Finding("bad", "idleness", f"the CPUs are {busy:.0f} % busy with something else: stop it first.")
    return Finding("good", "idleness", f"{busy:.0f} % busy, {steal:.1%} stolen.")


def timer() -> Finding:
    """A generator that wakes late sends late."""
    late_ms = []
    for _ in range(200):
        due = time.monotonic() + 0.002
        time.sleep(0.002)
        late_ms.append((time.monotonic() - due) * 1000)
    p99 = sorted(late_ms)[197]
    verdict: Literal["good", "bad"] = "good" if p99 < MAX_SLEEP_LATENESS_MS else "bad"
    return Finding(verdict, "timer", f"a sleep of 2 ms ends {p99:.2f} ms late at p99.")


def memory() -> Finding:
    """Three stacks and their servers need room."""
    free = psutil.virtual_memory().available
    verdict: Literal["good", "bad"] = "good" if free >= MIN_MEMORY_BYTES else "bad"
    return Finding(verdict, "memory", f"{free / 1024**3:.1f} GiB available.")


def disk(runs: Path) -> Finding:
    """A run directory takes some tens of MB, its servers some hundreds while it runs."""
    existing = next(path for path in [runs, *runs.absolute().parents] if path.exists())
    free = min(shutil.disk_usage(folder).free for folder in (existing, tempfile.gettempdir()))
    if not os.access(existing, os.W_OK):
        return Finding("bad", "disk", f"{existing} cannot be written to.")
    verdict: Literal["good", "bad"] = "good" if free >= MIN_FREE_BYTES else "bad"
    return Finding(verdict, "disk", f"{free / 1024**3:.1f} GiB free at {existing} and for temporary files.")


def open_files() -> Finding:
    """Each request in flight holds a socket on both sides."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    verdict: Literal["good", "limit"] = "good" if limit >= MIN_OPEN_FILES else "limit"
    return Finding(verdict, "open files", f"at most {limit} per process.")


def clock() -> Finding:
    """Every time is taken from CLOCK_MONOTONIC."""
    info = time.get_clock_info("monotonic")
    verdict: Literal["good", "limit"] = "good" if "CLOCK_MONOTONIC" in info.implementation else "limit"
    return Finding(verdict, "clock", f"{info.implementation}, resolution {info.resolution * 1e9:.0f} ns.")


def containers() -> Finding:
    """Without a container engine and compose v2 only `--stack compose` is missing."""
    try:
        return Finding("good", "containers", f"{engine.check_engine()}: --stack compose can be used.")
    except StackError as error:
        return Finding("limit", "containers", f"--stack compose cannot be used. {error}")
