"""What became of the tasks of a load, where the journals of those who do them can be read: docs/whats-here.md.

For the page "Comparison", which asks once a second; the load itself speaks HTTP only, and needs none of this.
"""

import json
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from loadtests.arrivals import NS_PER_S
from loadtests.recorder import Sample

ENDS = {"succeeded", "failed", "given_up", "skipped"}


class _Journal:
    """The journal files of one contender, each line read once."""

    def __init__(self, data: Path) -> None:
        self._folder = data / "journal"
        self._read: dict[Path, int] = {}
        self._foreign = False  # whether there was a line that is no journal's: then nothing is known any more
        self.started: set[str] = set()
        self.ended: set[str] = set()
        self.succeeded_ns: dict[str, int] = {}

    def begin(self) -> None:
        """Forget all, and pass over what is there: it is of loads before. Raises OSError."""
        self.started.clear()
        self.ended.clear()
        self.succeeded_ns.clear()
        self._foreign = False
        self._read = {file: file.stat().st_size for file in self._files()}

    def read(self) -> None:
        """Take in the lines that are new and whole. Raises OSError; ValueError where there is or was another's."""
        for file in self._files():
            with file.open("rb") as lines:
                lines.seek(self._read.get(file, 0))
                data = lines.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._read[file] = self._read.get(file, 0) + len(whole)
            for line in whole.splitlines():
                self._take(line)
        if self._foreign:
            raise ValueError(f"There is a line in {self._folder} that is no journal's.")

    def _files(self) -> list[Path]:
        """Return the files of the journal, none where there is no folder yet."""
        with suppress(FileNotFoundError):
            return sorted(path for path in self._folder.iterdir() if path.suffix == ".jsonl")
        return []

    def _take(self, line: bytes) -> None:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            event = None
        match event:
            case {"event": str(), "task_id": str(task_id), "t_ns": int(t_ns)} if t_ns <= time.monotonic_ns():
                self._take_event(event["event"], task_id, t_ns)
            case {"boot_id": _}:
                pass  # the first line of a file
            case _:
                self._foreign = True

    def _take_event(self, event: str, task_id: str, t_ns: int) -> None:
        if event == "started":
            self.started.add(task_id)
        elif event in ENDS:
            self.ended.add(task_id)
            if event == "succeeded":
                self.succeeded_ns.setdefault(task_id, t_ns)


class Tasks:
    """Counts the acknowledged tasks of a load by contender; ``data`` is the DATA_DIR of those of whom it tells."""

    def __init__(self, data: Mapping[str, Path]) -> None:
        self._journals = {name: _Journal(folder) for name, folder in data.items()}
        self._acknowledged: dict[str, set[str]] = {name: set() for name in data}
        self._start_ns = 0

    def begin(self, start_ns: int) -> None:
        """Begin with a new load, at a moment of the monotonic clock."""
        self._start_ns = start_ns
        for name, journal in self._journals.items():
            self._acknowledged[name].clear()
            with suppress(OSError):  # then it cannot be read either, which is told
                journal.begin()

    def add(self, sample: Sample) -> None:
        """Take one request, and with it the tasks that it caused."""
        if sample.outcome == "acknowledged" and sample.contender in self._acknowledged:
            ids = (str(uuid5(UUID(sample.request_id), str(position))) for position in range(sample.tasks))
            self._acknowledged[sample.contender].update(ids)

    def of(self, contender: str) -> dict[str, Any] | None:
        """Return how many tasks are ``acknowledged``, and of these ``not_started``, ``done`` and ``not_done``.

        Done is what has ended, whatever its end. ``succeeded_in`` has, for each second since the load's start, how
        many of them ended well in it; ``last_success_s`` is when the last of these did, None where none did. None where
        no journal is known, or it cannot be read.
        """
        journal = self._journals.get(contender)
        if journal is None:
            return None
        try:
            journal.read()
        except (OSError, ValueError):
            return None
        tasks = self._acknowledged[contender]
        done = len(tasks & journal.ended)
        since_start_ns = [t_ns - self._start_ns for task, t_ns in journal.succeeded_ns.items() if task in tasks]
        seconds = Counter(t_ns // NS_PER_S for t_ns in since_start_ns)
        return {
            "acknowledged": len(tasks),
            "not_started": len(tasks - journal.started - journal.ended),
            "done": done,
            "not_done": len(tasks) - done,
            "succeeded_in": [seconds[second] for second in range(max(seconds, default=-1) + 1)],
            "last_success_s": max(since_start_ns) / NS_PER_S if since_start_ns else None,
        }
