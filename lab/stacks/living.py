"""Processes that live on while evidence is taken: what they have begun, or have waiting before them, is not lost."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from lab.drain import pid_of
from lab.stacks import proc

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

Record = dict[str, Any]


def family(pid: int, name: str, runs_tasks: bool) -> Iterator[Record]:
    """Yield a record for ``processes.jsonl`` of a process, and of each below it, that lives.

    ``runs_tasks`` says that what they have accepted they run themselves, though none of it may have begun yet.
    """
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for process in [parent, *parent.children(recursive=True)]:
            if _is_alive(process):
                yield _record(process.pid, name, proc.started_ns(process.pid)) | {"runs_tasks": runs_tasks}


def writers(journal: Path) -> Iterator[Record]:
    """Yield a record of each process that wrote a journal and lives, as far as that can be told.

    It can of processes of this machine that are in no container: of others a pid says nothing.
    """
    boot_id = BOOT_ID.read_text().strip() if BOOT_ID.exists() else None
    for path in sorted(journal.glob(f"*-{socket.gethostname()}-*-*.jsonl")):
        anchor, pid = _anchor(path), pid_of(path)
        born_ns, began_ns = proc.started_ns(pid), anchor.get("monotonic_ns")
        if anchor.get("boot_id") != boot_id or born_ns is None or not isinstance(began_ns, int) or born_ns > began_ns:
            continue  # the pid is another's by now
        with suppress(psutil.NoSuchProcess):
            if _is_alive(psutil.Process(pid)):
                yield _record(pid, anchor.get("service", "?"), born_ns)


def unseen() -> Record:
    """Return a record which says that the broker, and processes elsewhere, could not be asked what they hold."""
    return {"event": "unseen", "t_ns": time.monotonic_ns()}


def _anchor(path: Path) -> Record:
    """Return the first line of a journal; nothing where it is none."""
    with path.open("rb") as lines, suppress(ValueError, RecursionError):
        anchor = json.loads(lines.readline())
        return anchor if isinstance(anchor, dict) else {}
    return {}


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _record(pid: int, name: str, started_ns: int | None) -> Record:
    where = {"hostname": socket.gethostname(), "pid": pid, "name": name}
    return {"event": "living", "t_ns": time.monotonic_ns(), "started_ns": started_ns} | where
