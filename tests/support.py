"""What several tests need: waiting with a deadline, programs for the supervisor, stolen CPUs, a `docker` that fails."""

import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

# As Celery's prefork pool does, and worse: children that fork again, leave the session and ignore SIGTERM.
TREE = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(2):
    if os.fork() == 0:
        os.setsid()
        os.fork()
        break
with open(sys.argv[1], "a") as pids:
    pids.write(f"{os.getpid()}\\n")
time.sleep(600)
"""
TREE_SIZE = 5

# A locustfile whose workers are told to start before they listen.
SLOW_TO_LISTEN = """
import gevent
from locust import events
from locust.runners import WorkerRunner

def sleep(environment, **_):
    if isinstance(environment.runner, WorkerRunner):
        gevent.sleep(1)

events.init.add_listener(sleep)
from loadtests.locustfile import *
"""


def until(condition: Callable[[], object], within_s: float = 10.0) -> bool:
    """Poll until a condition holds; return whether it did before the deadline."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def processes_in(pids: Path, count: int = TREE_SIZE) -> list[psutil.Process]:
    """Wait for a tree to have written its pids, and return its processes."""
    assert until(lambda: pids.exists() and len(pids.read_text().splitlines()) == count), "the tree did not come up"
    return [psutil.Process(int(line)) for line in pids.read_text().split()]


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return those that still run; pids of others that were given again do not count, nor do zombies."""
    return [process for process in processes if _is_alive(process)]


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def steal(monkeypatch: pytest.MonkeyPatch, cpus: int, stolen_s: Callable[[int], float]) -> None:
    """Let psutil tell of so many CPUs how many seconds were stolen of each since the boot; all else is as it is."""
    told = psutil.cpu_times

    def cpu_times(percpu: bool = False) -> Any:
        here = [times._asdict() for times in told(percpu=True)]
        each = [SimpleNamespace(**here[cpu % len(here)] | {"steal": stolen_s(cpu)}) for cpu in range(cpus)]
        return each if percpu else SimpleNamespace(steal=sum(times.steal for times in each))

    monkeypatch.setattr(psutil, "cpu_times", cpu_times)


def docker_client(folder: Path, version: str, compose: str) -> str:
    """Make a `docker` that does this for `version` and `compose version`, and nothing else; return a PATH with it."""
    folder.mkdir()
    client = folder / "docker"
    client.write_text(f'#!/bin/sh\ncase "$1" in\nversion) {version};;\ncompose) {compose};;\nesac\nexit 99\n')
    client.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def says(words: str, status: int) -> str:
    """Return what a shell does to say something on standard error, and end with this status."""
    return f"echo {shlex.quote(words)} >&2; exit {status}"
