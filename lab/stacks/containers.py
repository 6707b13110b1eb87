"""The containers of a block, watched from outside: which process each has now, and how and when those before ended.

Records are those of the supervisor, with the container's ``hostname``: ``kind`` is ``container`` for the end of one,
with which all processes in it end, and ``inside`` for that of a process in one that goes on. There ``pid`` is this
machine's and ``inner_pid`` the one that the process itself sees and gives its journal.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil

from lab.priority import step_back
from lab.stacks import engine, proc
from lab.stacks.supervisor import StackError

LOOK_EVERY_S = 0.05
SCAN_EVERY_S = 0.25
ASK_EVERY_S = 0.2


@dataclass
class Container:
    """A container, and the process that it has now; ``main`` is None while it has none."""

    name: str
    id: str
    hostname: str
    main: psutil.Process | None = None
    started_ns: int = 0
    gone: bool = False  # it was removed
    family: dict[psutil.Process, tuple[int | None, int | None]] = field(default_factory=dict)

    @property
    def pid(self) -> int | None:
        """The pid of its main process on this machine, or None while it does not run."""
        return self.main.pid if self.main and _lives(self.main) else None


class Containers:
    """Watches containers, given by name and id, in a thread of its own. A context manager."""

    def __init__(self, ids: Mapping[str, str]) -> None:
        self.records: list[dict[str, Any]] = []
        self.all = {name: self._find(name, id_) for name, id_ in ids.items()}
        self._over = threading.Event()
        self._failure: Exception | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="containers")
        self._next_ask: dict[str, float] = {}
        self._next_scan = 0.0

    def __enter__(self) -> Self:
        self._thread.submit(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def finish(self) -> None:
        """Look once more, and stop watching."""
        if not self._over.is_set():
            self._over.set()
            self._thread.shutdown()
            with self._noting_failure():
                self._look()

    def check(self) -> None:
        """Raise StackError where something may not have been seen: a container is gone, or the watching broke off."""
        if gone := [name for name, container in self.all.items() if container.gone]:
            raise StackError(f"{engine.GONE.rstrip('.')} ({', '.join(gone)}).")
        if self._failure is not None:
            raise StackError(f"The containers could not be watched to the end: {self._failure!r}.")

    @contextmanager
    def _noting_failure(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of whatever kind: `check` says so
            self._failure = self._failure or error

    def _find(self, name: str, id_: str) -> Container:
        if not id_:
            raise StackError(f"{name} has no container: somebody has removed it.")
        container = Container(name, id_, engine.inspect(id_)["Config"]["Hostname"])
        self._ask(container)
        return container

    def _run(self) -> None:
        with self._noting_failure():
            step_back()
            while not self._over.wait(LOOK_EVERY_S):
                self._look()

    def _look(self) -> None:
        now = time.monotonic()
        scan = now >= self._next_scan
        for container in self.all.values():
            if container.main and not _lives(container.main):
                self._ended(container)
            if container.main is None and not container.gone and now >= self._next_ask.get(container.name, 0):
                self._next_ask[container.name] = now + ASK_EVERY_S
                self._ask(container)
            if container.main and scan:
                self._scan(container)
        if scan:
            self._next_scan = now + SCAN_EVERY_S

    def _ask(self, container: Container) -> None:
        """Find the process of a container that has none known."""
        try:
            state = engine.inspect(container.id)["State"]
        except StackError as error:
            if str(error) != engine.GONE:
                raise
            container.gone = True
            return
        if state["Pid"] <= 1:
            return
        with suppress(psutil.NoSuchProcess):
            container.main = psutil.Process(state["Pid"])
            container.started_ns = proc.started_ns(state["Pid"]) or time.monotonic_ns()
            self._record("started", container, "container", state["Pid"], container.started_ns)

    def _ended(self, container: Container) -> None:
        assert container.main is not None
        ended_ns = time.monotonic_ns()
        status, oom = None, False
        with suppress(StackError):
            state = engine.inspect(container.id)["State"]
            # Where it runs again already, the engine tells no more how it ended.
            status, oom = (None, state["OOMKilled"]) if state["Running"] else (state["ExitCode"], state["OOMKilled"])
        how = {"status": status, "signal": 9 if status == 137 else None, "oom_killed": oom, "cpu_s": None}
        self._record("ended", container, "container", container.main.pid, container.started_ns, ended_ns, **how)
        container.main = None
        container.family.clear()

    def _scan(self, container: Container) -> None:
        """Look at the processes inside; record those that ended since the last time."""
        assert container.main is not None
        with suppress(psutil.NoSuchProcess):
            for process in container.main.children(recursive=True):
                if process not in container.family:
                    container.family[process] = (_inner_pid(process.pid), proc.started_ns(process.pid))
            ended = [process for process in container.family if not process.is_running()]
            if not _lives(container.main):
                return  # then they ended with it
            for process in ended:
                inner_pid, started_ns = container.family.pop(process)
                how = {"status": None, "signal": None, "cpu_s": None, "inner_pid": inner_pid}
                self._record("ended", container, "inside", process.pid, started_ns, **how)

    def _record(
        self,
        event: str,
        container: Container,
        kind: str,
        pid: int,
        started_ns: int | None,
        t_ns: int | None = None,
        **fields: Any,
    ) -> None:
        known = {"kind": kind, "name": container.name, "hostname": container.hostname, "pid": pid}
        t_ns = t_ns or time.monotonic_ns()
        self.records.append({"event": event, "t_ns": t_ns, **known, "started_ns": started_ns, **fields})

    def pids(self) -> Iterator[tuple[str, int]]:
        """Yield name and pid of each that runs now."""
        for container in self.all.values():
            if (pid := container.pid) is not None:
                yield container.name, pid


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _inner_pid(pid: int) -> int | None:
    """Return the pid that a process in a container sees itself under; None where it has ended meanwhile."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return None
