"""`kill -9` of the lab at random moments of `lab compare`: nothing of it is left, and the run can be finished.

The moments are spread over the whole run, from the start of the servers to the end of the block with the fault;
contender and fault are drawn for each. Two by default, of which the last run is finished by `lab resume`; ten, each of
them finished, by
``KILLED_LAB_MOMENTS=10 .venv/bin/pytest tests/integration/test_killed_lab.py``.
"""

import json
import os
import random
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import psutil
import psycopg
import pytest

from lab.contenders import load_contenders
from lab.environment import PROJECT
from lab.faults import FAULTS
from lab.rundir import Plan, RunDir
from lab.stacks.servers import Postgres, Redis
from tests.support import alive, until

MOMENTS = int(os.environ.get("KILLED_LAB_MOMENTS", "2"))
SEED = int(os.environ.get("KILLED_LAB_SEED", secrets.randbelow(2**31)))
KNOWN = load_contenders(PROJECT / "contenders.toml")
# With and without a broker, with children that prefork made and without; each under each fault that can be done to it.
CASES = [
    (contender, fault)
    for contender in ("inline", "celery", "celery-threads")
    for fault in ("api-kill", "worker-kill", "deploy")
    if FAULTS[fault].applies_to(KNOWN[contender])
]
COMPARE = ["--rate", "10", "--rounds", "1", "--duration", "3", "--void-repeats", "0"]  # a round and a fault block
# From the start of the servers to the end of the last block: besides the window with the fault at least 12 s.
FIRST_S, BESIDES_S = 1.0, 9.5
GONE_WITHIN_S = 5.0
LOOK_EVERY_S = 0.3
MARK = "TEST_OF_A_KILLED_LAB"

LISTENER = """
import socket, time
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
time.sleep(600)
"""


@dataclass
class Observed:
    """What has been seen of a lab while it ran: its processes and the ports on which they listened."""

    mark: str
    out: Path
    temporary: Path
    processes: set[psutil.Process] = field(default_factory=set)
    ports: set[int] = field(default_factory=set)
    killed_ns: int = 0

    def look(self) -> None:
        """Take in what there is now."""
        self.processes |= set(self.now())
        pids = {process.pid for process in self.processes}
        connections = [one for one in psutil.net_connections("inet") if one.pid in pids]
        self.ports |= {one.laddr.port for one in connections if one.status == psutil.CONN_LISTEN and one.laddr}

    def now(self) -> list[psutil.Process]:
        """Return every process that is the lab's: by its environment, or by where it works."""
        return [process for process in psutil.process_iter() if self._is_of_the_lab(process)]

    def _is_of_the_lab(self, process: psutil.Process) -> bool:
        # PostgreSQL and Redis write titles where their environment was, but stay in their data directories.
        with suppress(psutil.Error):
            places = (str(self.out), str(self.temporary))
            return process.environ().get(MARK) == self.mark or process.cwd().startswith(places)
        return False

    def left(self) -> list[psutil.Process]:
        """Return those that still run, whether seen before or not."""
        return alive([*self.processes.union(self.now())])


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """A place for the lab's temporary files, which PostgreSQL's user can reach and pytest's own are not."""
    directory = Path(tempfile.mkdtemp(prefix="killed-lab-"))
    directory.chmod(0o711)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def run_lab(*arguments: str | Path, environment: Mapping[str, str] = os.environ) -> subprocess.CompletedProcess[str]:
    """Run `lab` to its end."""
    command = [sys.executable, "-m", "lab", *map(str, arguments)]
    return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=150)


def last_moment_s(fault: str) -> float:
    """Return until when a run with this fault surely goes on."""
    injections: int = Plan.model_fields["injections"].default
    return BESIDES_S + injections * FAULTS[fault].part_s


def kill_at(moment_s: float, contender: str, fault: str, out: Path, temporary: Path) -> Observed:
    """Start `lab compare`, kill it at a moment, and return what had been seen of it by then."""
    seen = Observed(secrets.token_hex(8), out, temporary)
    what = ["--contender", contender, "--fault", fault, *COMPARE, "--seed", "7", "--out", str(out)]
    command = [sys.executable, "-m", "lab", "compare", *what]
    environment = os.environ | {MARK: seen.mark, "TMPDIR": str(temporary)}
    killed_at = time.monotonic() + moment_s
    log = out.parent / f"{out.name}.log"
    with (
        log.open("w") as output,
        subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=output, stderr=output) as lab,
    ):
        try:
            while time.monotonic() < killed_at:
                seen.look()
                time.sleep(min(LOOK_EVERY_S, max(0.0, killed_at - time.monotonic())))
            assert lab.poll() is None, f"the lab had ended before: {log.read_text()}"
        finally:
            seen.killed_ns = time.monotonic_ns()
            lab.kill()
    return seen


def is_free(port: int) -> bool:
    """Return whether a server could listen on a port."""
    with socket.socket() as probe, suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that are closed do not count
        probe.bind(("127.0.0.1", port))
        return True
    return False


def how_far(out: Path) -> str:
    """Return how far the run in a folder had come, for whoever reads the output of the test."""
    blocks = [path.parent.name for path in out.glob("*/blocks/*/logs")]
    loaded = [path.parent.name for path in out.glob("*/blocks/*/requests.*")]
    return f"blocks begun: {sorted(blocks)}, under load: {sorted(loaded)}"


def check_nothing_is_left(seen: Observed) -> None:
    """Check that processes, ports and temporary files are gone within five seconds."""
    temporary = seen.temporary
    until(lambda: not seen.left() and not list(temporary.iterdir()), within_s=GONE_WITHIN_S)
    left = [f"{process.pid} {process.as_dict(['name', 'status', 'ppid'])}" for process in seen.left()]
    assert not left, "processes are left"
    assert not [port for port in seen.ports if not is_free(port)], "ports are held"
    assert not list(temporary.iterdir()), "temporary files are left"


def check_nothing_was_overlooked(seen: Observed) -> None:
    """Check that what the supervisor knew to run when the lab was killed is among what was looked for afterwards."""
    for path in seen.out.glob("*/supervisor/processes.jsonl"):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        records = [record for record in records if record.get("kind") == "service"]
        started = {record["pid"] for record in records if record["t_ns"] < seen.killed_ns - LOOK_EVERY_S * 2e9}
        ended = {record["pid"] for record in records if record["event"] == "ended" and record["t_ns"] < seen.killed_ns}
        assert started - ended <= {process.pid for process in seen.processes}


def check_the_run_reads_and_says_what_is_missing(out: Path) -> None:
    """Check run.json and `lab report` of the only run in a folder, if the lab had got so far as to make one."""
    for path in out.glob("[!.]*"):  # a draft is no run yet
        blocks = RunDir(path).read().blocks
        missing = [block for block in blocks if block.state == "planned"]
        assert missing
        report = run_lab("report", path)
        assert report.returncode == 1, report.stdout + report.stderr
        said = re.sub(r"\s+", " ", report.stdout)
        assert f"The run is not complete: {len(missing)} of {len(blocks)} blocks are missing" in said, report.stdout
        assert all(block.contender in said for block in missing)


def check_resume_finishes(path: Path) -> None:
    """Check that finished blocks are kept as they are, and the others measured."""
    directory = RunDir(path)
    kept = {
        block.number: (directory.block(block) / "requests.parquet").read_bytes()
        for block in directory.read().blocks
        if block.state == "finished"
    }
    resumed = run_lab("resume", path)
    run = directory.read()
    assert {block.state for block in run.blocks} == {"finished"}, resumed.stdout + resumed.stderr
    assert resumed.returncode in (0, 3), resumed.stdout + resumed.stderr
    assert not run.interrupted
    assert run.ended_at is not None
    assert run.environment.servers
    for block in run.blocks:
        requests = (directory.block(block) / "requests.parquet").read_bytes()
        assert kept.get(block.number, requests) == requests
    assert json.loads((path / "summary.json").read_text())["run"] == path.name


@pytest.mark.timeout(120 + 150 * MOMENTS)
def test_a_killed_lab_leaves_nothing_running_and_can_be_resumed(tmp_path: Path) -> None:
    """At each moment in turn; the run that had come furthest, or each, is finished by `lab resume`."""
    draw = random.Random(SEED)
    cases = cycle(draw.sample(CASES, len(CASES)))
    for number, (contender, fault) in zip(range(MOMENTS), cases, strict=False):
        moment_s = FIRST_S + (last_moment_s(fault) - FIRST_S) * (number + draw.random()) / MOMENTS
        what = f"the lab with {contender} and {fault} is killed after {moment_s:.2f} s"
        print(f"KILLED_LAB_SEED={SEED} KILLED_LAB_MOMENTS={MOMENTS}: {what}")
        out = tmp_path / str(number)
        out.mkdir()
        with temporary_directory() as temporary:
            seen = kill_at(moment_s, contender, fault, out, temporary)
            print(f"  {len(seen.processes)} processes, {len(seen.ports)} ports, {how_far(out)}")
            check_nothing_is_left(seen)
        check_nothing_was_overlooked(seen)
        check_the_run_reads_and_says_what_is_missing(out)
        if "KILLED_LAB_MOMENTS" in os.environ or number == MOMENTS - 1:
            for run in out.glob("[!.]*"):  # none where the lab was killed before it had made one
                check_resume_finishes(run)


@pytest.mark.timeout(240)
def test_a_killed_lab_leaves_nothing_in_servers_of_the_users_own(
    tmp_path: Path, make_redis: Callable[[], Redis], make_postgres: Callable[[], Postgres]
) -> None:
    """Where it was killed in the middle of a block; and the run can be finished there."""
    broker, postgres = make_redis(), make_postgres()
    own = {"REDIS_URL": broker.url, "DATABASE_URL": postgres.url}
    what = ["--contender", "celery", "--fault", "none", *COMPARE, "--out", str(tmp_path / "runs")]
    command = [sys.executable, "-m", "lab", "compare", *what]
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(command, cwd=PROJECT, env=os.environ | own, stdout=log, stderr=log) as lab,
    ):
        try:
            assert until(
                lambda: traces(broker, postgres)[0] and any((tmp_path / "runs").glob("*/blocks/*/requests.*")), 60
            )
            keys, databases = traces(broker, postgres)
            assert keys
            assert databases == 1
        finally:
            lab.kill()
    assert until(lambda: traces(broker, postgres) == (0, 0)), "what was put there is left"
    (run,) = (tmp_path / "runs").glob("[!.]*")
    resumed = run_lab("resume", run, environment=os.environ | own)
    assert resumed.returncode in (0, 3), resumed.stdout + resumed.stderr
    assert {block.state for block in RunDir(run).read().blocks} == {"finished"}
    assert traces(broker, postgres) == (0, 0)


def traces(broker: Redis, postgres: Postgres) -> tuple[int, int]:
    """Return how many keys a Redis has, and how many databases that are the lab's a PostgreSQL."""
    with broker.connect() as client, psycopg.connect(postgres.url) as connection:
        (databases,) = connection.execute("SELECT count(*) FROM pg_database WHERE datname ~ '^lab_'").fetchone() or (0,)
        return client.dbsize(), databases


@pytest.mark.parametrize("known_by", ["environment", "working directory"])
def test_the_check_finds_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known_by: str) -> None:
    """It says so for a process, by either of its marks, for a port and for a file."""
    monkeypatch.setattr(sys.modules[__name__], "GONE_WITHIN_S", 0.1)
    with temporary_directory() as temporary:
        seen = Observed(secrets.token_hex(8), tmp_path, temporary)
        environment, cwd = (os.environ | {MARK: seen.mark}, "/") if known_by == "environment" else (None, temporary)
        command = [sys.executable, "-c", LISTENER]
        with subprocess.Popen(command, env=environment, cwd=cwd, stdout=subprocess.PIPE, text=True) as listener:
            try:
                assert listener.stdout is not None
                port = int(listener.stdout.readline())
                with pytest.raises(AssertionError, match="processes are left"):
                    check_nothing_is_left(seen)
                seen.look()
                assert seen.ports == {port}
                assert not is_free(port)
            finally:
                listener.kill()
        check_nothing_is_left(seen)
        (temporary / "left").touch()
        with pytest.raises(AssertionError, match="temporary files are left"):
            check_nothing_is_left(seen)
