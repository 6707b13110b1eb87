"""The sampler: what a process tree has used, whatever happens to its members meanwhile."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import psutil
import pytest

from lab.sampler import Sampler, others_share
from lab.stacks.supervisor import Child, Supervisor
from tests.blockmaker import write_parquet
from tests.runmaker import RESOURCE_COLUMNS
from tests.support import until

BURN = "import time\nwhile time.process_time() < {seconds}: pass\n"
BURN_UNTIL = "import pathlib\nwhile not pathlib.Path({seen!r}).exists(): pass\n"
FAMILY = """
import signal, subprocess, sys
print("ready")
for seconds in (0.2, 0.2):
    subprocess.run([sys.executable, "-c", {burn!r}.format(seconds=seconds)])
subprocess.run([sys.executable, "-c", {burn_until!r}])
print("burnt")
signal.pause()
"""
# A child and a grandchild, which burns until a file is there; the child goes on until another is there.
THREE_LEVELS = """
import signal, subprocess, sys
print("ready")
subprocess.run([sys.executable, "-c", {middle!r}])
print("burnt")
signal.pause()
"""
MIDDLE = """
import pathlib, subprocess, sys, time
subprocess.run([sys.executable, "-c", {leaf!r}])
while not pathlib.Path({seen!r}).exists(): time.sleep(0.01)
"""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Supervisor]:
    """A supervisor of the test's own."""
    with Supervisor(tmp_path / "own") as running:
        yield running


def start(supervisor: Supervisor, name: str, code: str, log: Path) -> Child:
    """Start a Python program given as text, and wait until it prints that it is ready to be looked at."""
    child = supervisor.start(name, [sys.executable, "-u", "-c", code], {}, log=log)
    assert until(lambda: "ready" in log.read_text()), log.read_text()
    return child


def rows(file: Path, query: str) -> list[Any]:
    """Return the rows of a query in which ``samples`` is the file."""
    return duckdb.execute(query.replace("samples", f"'{file}'")).fetchall()


def used(file: Path) -> dict[str, float]:
    """Return the CPU seconds of each role as the report adds them up."""
    query = "SELECT role, sum(s) FROM (SELECT role, max(cpu_s) s FROM samples GROUP BY role, pid) GROUP BY role"
    return dict(rows(file, query))


def test_a_tree_is_counted_whole_and_once(own: Supervisor, tmp_path: Path) -> None:
    """The time of a child counts once, whether it ended between two looks or was seen while it lived."""
    code = FAMILY.format(burn=BURN, burn_until=BURN_UNTIL.format(seen=str(tmp_path / "seen")))
    parent = start(own, "parent", code, tmp_path / "log")
    with Sampler(lambda: {parent.pid: "api"}, tmp_path / "resources.parquet") as sampler:
        assert until(lambda: any(s.pid != parent.pid and s.cpu_s > 1.4 for s in list(sampler.samples)), within_s=60)
        (tmp_path / "seen").touch()
        assert until(lambda: "burnt" in (tmp_path / "log").read_text(), within_s=30)
    truth = psutil.Process(parent.pid).cpu_times()
    total_s = truth.user + truth.system + truth.children_user + truth.children_system
    assert total_s > 1.8
    assert used(tmp_path / "resources.parquet")["api"] == pytest.approx(total_s, abs=0.05)


@pytest.mark.parametrize("together", [False, True])
def test_a_grandchild_is_counted_once(own: Supervisor, tmp_path: Path, together: bool) -> None:
    """Whether its parent is seen to live on when it has ended, or both have ended at the next look."""
    leaf_may_end, middle_may_end = tmp_path / "leaf", tmp_path / "middle"
    middle = MIDDLE.format(leaf=BURN_UNTIL.format(seen=str(leaf_may_end)), seen=str(middle_may_end))
    root = start(own, "root", THREE_LEVELS.format(middle=middle), tmp_path / "log")
    with Sampler(lambda: {root.pid: "api"}, tmp_path / "resources.parquet") as sampler:

        def seen() -> list[tuple[int, float]]:
            """Return pid and CPU time of each process at the last look."""
            samples = list(sampler.samples)
            return [(s.pid, s.cpu_s) for s in samples if s.t_ns == samples[-1].t_ns]

        assert until(lambda: len(seen()) == 3 and max(cpu_s for _, cpu_s in seen()) > 1, within_s=60)
        if together:
            middle_may_end.touch()
        leaf_may_end.touch()
        assert together or until(lambda: len(seen()) == 2)
        middle_may_end.touch()
        assert until(lambda: "burnt" in (tmp_path / "log").read_text(), within_s=30)
    truth = psutil.Process(root.pid).cpu_times()
    total_s = truth.user + truth.system + truth.children_user + truth.children_system
    assert used(tmp_path / "resources.parquet")["api"] == pytest.approx(total_s, abs=0.2)


def test_a_role_inside_another_is_not_counted_twice(own: Supervisor, tmp_path: Path) -> None:
    """Everything is below the lab, but only what has no role of its own is the lab's."""
    child = start(own, "api", BURN.format(seconds=0.3) + "print('ready'); time.sleep(600)", tmp_path / "log")
    roles = {os.getpid(): "lab", own.pid: "supervisor", child.pid: "api"}
    with Sampler(lambda: roles, tmp_path / "resources.parquet"):
        pass
    by_role = dict(rows(tmp_path / "resources.parquet", "SELECT role, array_agg(DISTINCT pid) FROM samples GROUP BY 1"))
    assert by_role["api"] == [child.pid]
    assert by_role["supervisor"] == [own.pid]
    assert child.pid not in by_role["lab"]
    assert 0.25 < used(tmp_path / "resources.parquet")["api"] < 3


def test_what_is_started_meanwhile_is_seen_and_what_ends_is_kept(own: Supervisor, tmp_path: Path) -> None:
    """A role's restarted process has rows beside those of the one before."""
    first = start(own, "api", "print('ready'); import time; time.sleep(600)", tmp_path / "log")
    pids = [first.pid]
    sampler = Sampler(lambda: {first.pid: "api"}, tmp_path / "resources.parquet")
    with sampler:
        assert until(lambda: sampler.samples)
        own.stop("api", grace_s=5)
        first = start(own, "api", "print('ready'); import time; time.sleep(600)", tmp_path / "log-2")
        pids.append(first.pid)
    assert rows(tmp_path / "resources.parquet", "SELECT DISTINCT pid FROM samples ORDER BY pid") == [(p,) for p in pids]


def test_what_others_use_of_a_cpu_is_seen(own: Supervisor, tmp_path: Path) -> None:
    """A process without a role burns a second of it."""
    cpu = min(os.sched_getaffinity(0))
    with Sampler(dict, tmp_path / "resources.parquet", [cpu]) as sampler:
        assert until(lambda: sampler.samples)
        began_ns = sampler.samples[-1].t_ns
        code = BURN.format(seconds=1) + "print('ready')"
        own.start("other", [sys.executable, "-u", "-c", code], {}, log=tmp_path / "log", cpus=[cpu])
        assert until(lambda: "ready" in (tmp_path / "log").read_text(), within_s=30)
    ended_ns = sampler.samples[-1].t_ns
    share = others_share(tmp_path / "resources.parquet", began_ns, ended_ns, 1)
    assert share is not None
    assert share * (ended_ns - began_ns) / 1e9 > 0.9


def test_what_is_no_contenders_is_the_others(tmp_path: Path) -> None:
    """Of 2 s the API took 1, a worker that came meanwhile 0.5; the load generator has other CPUs."""
    seen = [(0, "cpus", 0, 10.0), (0, "api", 1, 5.0), (0, "generator", 3, 1.0), (1, "worker", 2, 0.3)]
    seen += [(2, "cpus", 0, 12.0), (2, "api", 1, 6.0), (2, "worker", 2, 0.5), (2, "generator", 3, 2.0)]
    table = [
        {"t_ns": t_s * 10**9, "role": role, "pid": pid, "cpu_s": cpu_s, "rss_bytes": 1, "pss_bytes": None}
        for t_s, role, pid, cpu_s in seen
    ]
    write_parquet(table, RESOURCE_COLUMNS, tmp_path / "resources.parquet")
    assert others_share(tmp_path / "resources.parquet", 0, 2 * 10**9, 1) == pytest.approx(0.25)
    assert others_share(tmp_path / "resources.parquet", 0, 2 * 10**9, 2) == pytest.approx(0.125)
    assert others_share(tmp_path / "missing.parquet", 0, 2 * 10**9, 1) is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the proportional set size")
def test_memory_is_there(own: Supervisor, tmp_path: Path) -> None:
    """A process that holds 50 MB has them in both figures, and a forked child that shares them half of each."""
    code = "x = b'x' * 50_000_000\nimport os, time\nos.fork() and print('ready')\ntime.sleep(600)"
    parent = start(own, "api", code, tmp_path / "log")
    with Sampler(lambda: {parent.pid: "api"}, tmp_path / "resources.parquet"):
        pass
    sizes = rows(tmp_path / "resources.parquet", "SELECT rss_bytes, pss_bytes FROM samples")
    assert len(sizes) == 2
    assert all(rss > 50e6 and 25e6 < pss < 45e6 for rss, pss in sizes)


def test_the_generators_memory_map_is_left_alone(own: Supervisor, tmp_path: Path) -> None:
    """While the lab walks its page tables the generator, that asks for more memory, waits, and is late."""
    generator = start(own, "locust", "import time\nprint('ready')\ntime.sleep(600)", tmp_path / "log")
    with Sampler(lambda: {generator.pid: "generator"}, tmp_path / "resources.parquet"):
        pass
    ((rss, pss),) = rows(tmp_path / "resources.parquet", "SELECT rss_bytes, pss_bytes FROM samples")
    assert rss > 1e6
    assert pss is None


def test_an_error_in_sampling_is_not_swallowed(tmp_path: Path) -> None:
    """A block without its resources must not look like one in which nothing was used."""
    with pytest.raises(ZeroDivisionError), Sampler(lambda: {1 // 0: "api"}, tmp_path / "resources.parquet"):
        pass
