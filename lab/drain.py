"""The drain: waiting until every acknowledged task of a block has ended, or nothing more can happen."""

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import psutil

from lab.errors import LabError

ENDS = {"succeeded", "failed", "given_up", "skipped"}
QUIET_S = 3.0
HIGHEST_PID = 1 << 22  # of any Linux


@dataclass
class JournalTail:
    """Follows the journal files of a running stack; complete lines only, each read once."""

    directory: Path
    ended: set[str] = field(default_factory=set)
    succeeded_ns: dict[str, int] = field(default_factory=dict)  # by task id, the first time
    running: dict[str, int] = field(default_factory=dict)  # task id → pid
    last_event_at: float = field(default_factory=time.monotonic)
    _offsets: dict[Path, int] = field(default_factory=dict)

    def skip(self) -> None:
        """Leave out what is there already, of a stack that ran before. Raises LabError where it cannot be read."""
        files = journal_files(self.directory)
        with readable():
            self._offsets = {path: path.stat().st_size for path in files}

    def read(self) -> None:
        """Take in what has been written since the last call.

        Raises LabError where a file's name is no journal's, or it cannot be read.
        """
        for path in journal_files(self.directory):
            pid = pid_of(path)
            for line in self._new_lines(path):
                if event := _event(line):
                    self._take(event, pid)

    def in_progress(self) -> bool:
        """Return whether a process that is alive is running a task."""
        return any(psutil.pid_exists(pid) for pid in set(self.running.values()))

    def _take(self, event: dict[str, Any], pid: int) -> None:
        self.last_event_at = time.monotonic()
        if event["event"] == "started":
            self.running[event["task_id"]] = pid
        elif event["event"] in ENDS:
            self.ended.add(event["task_id"])
            if event["event"] == "succeeded":
                self.succeeded_ns.setdefault(event["task_id"], event["t_ns"])
            self.running.pop(event["task_id"], None)

    def _new_lines(self, path: Path) -> list[bytes]:
        start = self._offsets.get(path, 0)
        with readable(), path.open("rb") as file:
            file.seek(start)
            data = file.read()
        complete = data[: data.rfind(b"\n") + 1]
        self._offsets[path] = start + len(complete)
        return complete.splitlines()


def _event(line: bytes) -> dict[str, Any] | None:
    """Return the event in a line; None for an anchor, and for what is no event: an app of one's own writes anything."""
    with suppress(ValueError, RecursionError):
        event = json.loads(line)
        types = {"task_id": str, "event": str, "t_ns": int}
        if isinstance(event, dict) and all(isinstance(event.get(key), kind) for key, kind in types.items()):
            return event if event["t_ns"] <= time.monotonic_ns() else None  # or it is of another clock
    return None


def journal_files(directory: Path) -> list[Path]:
    """Return the files of a journal, none where there is no folder yet. Raises LabError where that cannot be told."""
    with readable(), suppress(FileNotFoundError):
        return sorted(path for path in directory.iterdir() if path.suffix == ".jsonl")
    return []


@contextmanager
def readable() -> Iterator[None]:
    """Raise LabError for a file that cannot be read: those of an app of one's own may be anything."""
    try:
        yield
    except OSError as error:
        raise LabError(f"{error.filename} cannot be read: {error.strerror}.") from error


def pid_of(journal: Path) -> int:
    """Return the pid in the name of a journal file. Raises LabError where there is none, as in that of an own app."""
    found = re.search(r"-([0-9]{1,7})-[^-]*$", journal.stem)
    if found is None or int(found[1]) > HIGHEST_PID:
        raise LabError(f"{journal} is no journal: its name must end in -<pid>-<nonce>.jsonl.")
    return int(found[1])


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
    horizon_ns: int,
    broker_is_empty: Callable[[], bool | None],
    check: Callable[[], None],
) -> int:
    """Wait until the tasks have ended, and whatever else was caused; return when that was, as monotonic ns.

    ``check`` may raise to leave early. It gives up at the horizon, a moment of the monotonic clock, and before it when
    nothing can happen any more: no living process runs a task, the broker has none waiting, and no event has come for
    three seconds. Of a broker that is not known nobody can say that. Who is asked only after the horizon was done at
    the horizon: a load that ends late gives no contender more time.
    """
    while True:
        check()
        tail.read()
        if not tail.in_progress():
            empty = broker_is_empty()
            if tasks <= tail.ended and empty is not False:
                break
            if empty and time.monotonic() - tail.last_event_at > QUIET_S:
                break
        if time.monotonic_ns() >= horizon_ns:
            break
        time.sleep(0.05)
    return min(time.monotonic_ns(), horizon_ns)
