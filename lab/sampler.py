"""The sampler: CPU time and memory of every process of a block, twice a second, by what the process is for."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import duckdb
import psutil

from lab.clock import StealReading
from lab.globs import no_glob
from lab.priority import step_back

EVERY_S = 0.5
# The kernel walks a process's page tables for its PSS, with its memory map locked: less often than the rest.
PSS_EVERY_S = 4.0
# And never that of the generator, which would be late: it waits for the lock where it asks for memory, and the lab,
# which steps back with the lock in hand, may not get on for milliseconds.
NO_PSS_OF = "generator"


class Sample(NamedTuple):
    """A process at one moment; all processes of a sweep have the same moment."""

    t_ns: int
    role: str
    pid: int
    cpu_s: float
    rss_bytes: int
    pss_bytes: int | None


class Known:
    """What is kept of a process from sweep to sweep."""

    def __init__(self, process: psutil.Process) -> None:
        self.process = process
        self.parent = 0
        self.cpu_s = 0.0
        self.ended_children_s = 0.0  # CPU time of all below it that have ended and had rows of their own
        self.pss_bytes: int | None = None
        self.pss_due = 0.0


class Sampler:
    """Samples until it is left, then writes ``resources.parquet``: the fields of `Sample`.

    ``roles`` gives the processes to sample, each with all below it that have no role of their own. ``cpu_s`` is the
    CPU time of a process since its start, and of those of its ended children that were too short-lived to be sampled
    themselves, so the sum of the processes' increases is what a role has used. ``cpus`` have a row in each sweep too,
    of the role ``cpus`` and without a pid: for how long they were busy, with whatever it was. ``lab_cpus`` are those
    of which ``steal`` gets a reading at the beginning and with each sweep; it is not in the file.
    """

    def __init__(
        self,
        roles: Callable[[], dict[int, str]],
        file: Path,
        cpus: Sequence[int] = (),
        lab_cpus: Sequence[int] = (),
    ) -> None:
        self.roles = roles
        self.cpus = cpus
        self.lab_cpus = lab_cpus
        self.steal: list[StealReading] = []
        self.file = file
        self.samples: list[Sample] = []
        self._known: dict[int, Known] = {}
        self._end = threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sampler")

    def __enter__(self) -> Self:
        self._read_steal()
        self._sampling = self._thread.submit(self._run)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.shutdown()
        self._sampling.result()  # raises what has ended it, if anything has
        self._write()

    def _run(self) -> None:
        step_back()
        while not self._end.wait(EVERY_S):
            self.samples += self._sweep()
        self.samples += self._sweep()

    def _read_steal(self) -> None:
        if self.lab_cpus:
            self.steal.append(StealReading.now(self.lab_cpus))

    def _sweep(self) -> list[Sample]:
        self._read_steal()
        t_ns = time.monotonic_ns()
        present = dict(self._family())
        self._forget(self._known.keys() - present.keys())
        samples = [Sample(t_ns, "cpus", 0, busy_s(self.cpus), 0, None)] if self.cpus else []
        for pid, role in present.items():
            with suppress(psutil.Error, OSError):
                samples.append(self._sample(t_ns, role, self._known[pid]))
        return samples

    def _forget(self, pids: Set[int]) -> None:
        """Forget processes that have ended.

        Their time, and that of those below them that ended before, is now part of what the system tells of their
        nearest ancestor that lives on, whichever of them ended first.
        """
        gone = {pid: self._known.pop(pid) for pid in pids}
        for one in gone.values():
            parent = one.parent
            while parent in gone:
                parent = gone[parent].parent
            if parent in self._known:
                self._known[parent].ended_children_s += one.cpu_s + one.ended_children_s

    def _family(self) -> Iterator[tuple[int, str]]:
        """Yield pid and role of every process, and see to it that each is known."""
        roles = self.roles()
        ours = [psutil.Process(), *psutil.Process().children(recursive=True)]
        for process in [*ours, *_others(roles.keys() - {process.pid for process in ours})]:
            known = self._known.get(process.pid)
            if known is None or known.process != process:
                known = self._known[process.pid] = Known(process)
            with suppress(psutil.Error):
                known.parent = process.ppid()
                if role := self._role(process.pid, roles):
                    yield process.pid, role

    def _role(self, pid: int, roles: dict[int, str]) -> str | None:
        """Return the role of a process or of its nearest ancestor that has one; parents come before their children."""
        while pid not in roles and pid in self._known:
            pid = self._known[pid].parent
        return roles.get(pid)

    def _sample(self, t_ns: int, role: str, known: Known) -> Sample:
        with known.process.oneshot():
            times = known.process.cpu_times()
            rss_bytes = known.process.memory_info().rss
        waited_for_s = times.children_user + times.children_system - known.ended_children_s
        known.cpu_s = times.user + times.system + max(0.0, waited_for_s)
        now = time.monotonic()
        if role != NO_PSS_OF and now >= known.pss_due:
            known.pss_due = now + PSS_EVERY_S
            known.pss_bytes = _pss_bytes(known.process.pid)
        return Sample(t_ns, role, known.process.pid, known.cpu_s, rss_bytes, known.pss_bytes)

    def _write(self) -> None:
        columns = {name: [sample[i] for sample in self.samples] for i, name in enumerate(Sample._fields)}
        values = ", ".join(f"unnest(${name}) AS {name}" for name in columns)
        target = str(self.file).replace("'", "''")
        with duckdb.cursor() as db:
            db.execute(f"COPY (SELECT {values}) TO '{target}' (FORMAT parquet)", columns)


def busy_s(cpus: Sequence[int]) -> float:
    """Return for how many seconds these CPUs were busy since the boot, what the hypervisor took not included."""
    each = psutil.cpu_times(percpu=True)
    busy = ("user", "nice", "system", "irq", "softirq")  # a guest's time is in the user's
    return sum(float(getattr(each[cpu], kind, 0.0)) for cpu in cpus for kind in busy)


# From the last sweep before the time to the last one in it; a process that began in it began with no CPU time.
OTHERS = """
    WITH seen AS (FROM read_parquet($file) WHERE t_ns <= $end_ns AND role IN ('api', 'worker', 'broker', 'cpus')),
    used AS (
        SELECT role, max(cpu_s) - coalesce(max(cpu_s) FILTER (t_ns <= $start_ns), 0) AS cpu_s
        FROM seen GROUP BY role, pid)
    SELECT sum(if(role = 'cpus', cpu_s, -cpu_s)),
           (SELECT (max(t_ns) - max(t_ns) FILTER (t_ns <= $start_ns)) / 1e9 FROM seen WHERE role = 'cpus')
    FROM used
"""


def others_share(file: Path, start_ns: int, end_ns: int, cpus: int) -> float | None:
    """Return which share of the contender's CPUs others used between two moments; None where nobody looked."""
    if not cpus or not file.exists():
        return None
    with duckdb.cursor() as db:
        row = db.execute(OTHERS, {"file": no_glob(file), "start_ns": start_ns, "end_ns": end_ns}).fetchone()
    others_s, looked_s = row or (None, None)
    return max(0.0, others_s / looked_s / cpus) if others_s is not None and looked_s else None


def _others(pids: Iterable[int]) -> Iterator[psutil.Process]:
    """Yield processes that are not below the lab, those of containers, each before all below it."""
    for pid in pids:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            yield from [process, *process.children(recursive=True)]


def _pss_bytes(pid: int) -> int | None:
    """Return the proportional set size: shared pages count in parts. None where the system does not tell it."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), None)
