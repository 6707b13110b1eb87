"""The environment record: on what machine, with which packages and at which commit a run was made."""

import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import psutil

from lab import awake
from lab.rundir import Environment, Placement

PROJECT = Path(__file__).resolve().parent.parent

RECORDED_PACKAGES = [
    "fastapi", "starlette", "uvicorn", "uvloop", "httptools", "celery", "kombu", "redis", "psycopg",
    "pgvector", "wordllama", "locust", "gevent", "geventhttpclient", "pydantic", "duckdb",
]  # fmt: skip


def describe(placement: Placement, servers: dict[str, str]) -> Environment:
    """Return the environment record of this machine and process."""
    return Environment(
        cpu=_cpu_model(),
        cores=os.cpu_count() or 1,
        affinity=available_cpus(),
        kept_awake=awake.is_due(),
        os=platform.platform(),
        python=python(),
        memory_bytes=psutil.virtual_memory().total,
        packages=packages(),
        servers=servers,
        placement=placement,
    )


def python() -> str:
    """Return this interpreter's name and version."""
    return f"{platform.python_implementation()} {platform.python_version()}"


def packages() -> dict[str, str]:
    """Return the installed versions of the packages that a run depends on."""
    return {name: metadata.version(name) for name in RECORDED_PACKAGES}


def software_changes(then: Environment) -> str:
    """Return what has changed since an environment was recorded, ``celery 5.6.0, now 5.6.1; …``; empty for nothing."""
    return differences({"": then.python} | then.packages, {"": python()} | packages())


def machine_changes(then: Environment) -> str:
    """Return what is another machine's than the one an environment was recorded on, likewise; empty for nothing."""
    now = {"CPU": _cpu_model(), "system": platform.platform(), "GiB of memory": gib(psutil.virtual_memory().total)}
    return differences({"CPU": then.cpu, "system": then.os, "GiB of memory": gib(then.memory_bytes)}, now)


def gib(memory_bytes: int) -> int:
    """Return a machine's memory in whole GiB, by which machines are told apart."""
    return round(memory_bytes / 2**30)  # to the byte it may change with each start of a virtual machine


def differences(before: Mapping[str, object], now: Mapping[str, object]) -> str:
    """Return what differs between two records, ``celery 5.6.0, now 5.6.1; …``; empty for nothing."""
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return "; ".join(f"{name} {before.get(name, 'none')}, now {now.get(name, 'none')}".strip() for name in changed)


def available_cpus() -> list[int]:
    """Return the CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def place(cpus: list[int]) -> Placement:
    """Split the CPUs: the lower half for generator, shared servers and lab, the upper half for the contender.

    With an odd count the contender gets the larger half. One CPU alone is shared by all and nothing is pinned.
    """
    if len(cpus) == 1:
        return Placement(contender=cpus, generator=cpus, pinned=False)
    half = len(cpus) // 2
    return Placement(contender=cpus[half:], generator=cpus[:half], pinned=hasattr(os, "sched_setaffinity"))


def git_commit(checkout: Path = PROJECT) -> str:
    """Return the commit of a checkout, or ``unknown``.

    Where files differ from the commit, ``-dirty-`` is appended, and twelve digits that tell such differences apart.
    """
    try:
        commit = _git(checkout, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*").decode().strip()
        if not commit.endswith("-dirty"):
            return commit
        return f"{commit}-{hashlib.sha256(_git(checkout, 'diff', '--binary', 'HEAD')).hexdigest()[:12]}"
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(checkout: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(checkout), *arguments], capture_output=True, check=True).stdout


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
