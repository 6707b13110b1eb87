"""The drain: waiting until every acknowledged task of a block has ended, or nothing more can happen."""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import psutil

ENDS = {"succeeded", "failed", "given_up", "skipped"}
QUIET_S = 3.0


@dataclass
class JournalTail:
    """Follows the journal files of a running stack; complete lines only, each read once."""

    directory: Path
    ended: set[str] = field(default_factory=set)
    succeeded_ns: dict[str, int] = field(default_factory=dict)  # by task id, the first time
    running: dict[str, int] = field(default_factory=dict)  # task id → pid
    last_event_at: float = field(default_factory=time.monotonic)
    _offsets: dict[Path, int] = field(default_factory=dict)

    def read(self) -> None:
        """Take in what has been written since the last call."""
        for path in sorted(self.directory.glob("*.jsonl")):
            for event in self._new_lines(path):
                self._take(event, pid=int(path.stem.rsplit("-", 2)[1]))

    def in_progress(self) -> bool:
        """Return whether a process that is alive is running a task."""
        return any(psutil.pid_exists(pid) for pid in set(self.running.values()))

    def _take(self, event: dict[str, Any], pid: int) -> None:
        if "event" not in event:
            return
        self.last_event_at = time.monotonic()
        if event["event"] == "started":
            self.running[event["task_id"]] = pid
        elif event["event"] in ENDS:
            self.ended.add(event["task_id"])
            if event["event"] == "succeeded":
                self.succeeded_ns.setdefault(event["task_id"], event["t_ns"])
            self.running.pop(event["task_id"], None)

    def _new_lines(self, path: Path) -> list[dict[str, Any]]:
        start = self._offsets.get(path, 0)
        with path.open("rb") as file:
            file.seek(start)
            data = file.read()
        complete = data[: data.rfind(b"\n") + 1]
        self._offsets[path] = start + len(complete)
        return [json.loads(line) for line in complete.splitlines()]


def acknowledged_tasks(samples: Path) -> set[str]:
    """Return the ids of the tasks whose request was acknowledged, as the contract derives them."""
    with samples.open() as lines:
        rows: Iterable[dict[str, Any]] = (json.loads(line) for line in lines)
        return {
            str(uuid5(UUID(row["request_id"]), str(position)))
            for row in rows
            if row.get("outcome") == "acknowledged"
            for position in range(row["tasks"])
        }


def drain(
    tail: JournalTail,
    tasks: set[str],
    horizon_s: float,
    broker_is_empty: Callable[[], bool | None],
    check: Callable[[], None],
) -> int:
    """Wait until the tasks have ended, and whatever else was caused; return when that was, as monotonic ns.

    ``check`` may raise to leave early. It gives up at the horizon, and before it when nothing can happen any more: no
    living process runs a task, the broker has none waiting, and no event has come for three seconds. Of a broker that
    is not known nobody can say that.
    """
    deadline = time.monotonic() + horizon_s
    while time.monotonic() < deadline:
        check()
        tail.read()
        if not tail.in_progress():
            empty = broker_is_empty()
            if tasks <= tail.ended and empty is not False:
                break
            if empty and time.monotonic() - tail.last_event_at > QUIET_S:
                break
        time.sleep(0.05)
    return time.monotonic_ns()
