"""The supervisor: what it starts is watched, restarted, signalled, stopped, and never outlives the lab."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from lab.stacks import proc
from lab.stacks.supervisor import Child, StackError, Supervisor
from tests.support import TREE, alive, processes_in, until

# A lab in small: a supervisor with a tree, a service that is restarted, and PostgreSQL with a client.
LAB = """
import pathlib, sys, time
import psycopg
from lab.stacks import servers
from lab.stacks.supervisor import Supervisor
folder = pathlib.Path(sys.argv[1])
with Supervisor(folder) as supervisor:
    tree = [sys.executable, sys.argv[2], str(folder / "pids")]
    supervisor.start("tree", tree, {}, log=folder / "tree.log", restart=True)
    client = psycopg.connect(servers.postgres(supervisor, folder / "postgres").url)
    data = client.execute("SHOW data_directory").fetchone()[0]
    (folder / "up").write_text(f"{supervisor.pid} {data}")
    time.sleep(600)
"""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Supervisor]:
    """A supervisor of the test's own."""
    with Supervisor(tmp_path / "own") as running:
        yield running


def start_python(supervisor: Supervisor, name: str, code: str, log: Path, *arguments: str, **options: Any) -> Child:
    """Start a Python program given as text."""
    return supervisor.start(name, [sys.executable, "-c", code, *arguments], {}, log=log, **options)


def records_of(supervisor: Supervisor, name: str, event: str) -> list[dict[str, Any]]:
    """Return what was recorded of a process."""
    return [record for record in supervisor.records if record["name"] == name and record["event"] == event]


def test_start_and_end_are_recorded(own: Supervisor, tmp_path: Path) -> None:
    """An end has pid, times, status and CPU seconds, in memory and in the file."""
    before = time.monotonic_ns()
    code = "import time, sys\nwhile time.process_time() < 0.3: pass\nsys.exit(3)"
    child = start_python(own, "burner", code, tmp_path / "log")
    assert until(lambda: child.poll() is not None)
    (ended,) = records_of(own, "burner", "ended")
    assert (child.poll(), ended["status"], ended["signal"], ended["pid"]) == (3, 3, None, child.pid)
    assert before < ended["started_ns"] < ended["t_ns"] < time.monotonic_ns()
    assert 0.3 <= ended["cpu_s"] < 3
    written = [json.loads(line) for line in (own.directory / "processes.jsonl").read_text().splitlines()]
    assert written == own.records


def test_one_that_is_being_started_neither_runs_nor_has_ended(tmp_path: Path) -> None:
    """Other threads ask about it from before its first record on: the sampler does, while the generator starts."""
    child = Child("early", tmp_path / "log")
    assert (child.runs(), child.poll()) == (False, None)
    child.take({"event": "started", "pid": 4711})
    assert (child.runs(), child.poll()) == (True, None)
    child.take({"event": "ended", "status": 3, "signal": None})
    assert (child.runs(), child.poll()) == (False, 3)


def test_the_process_gets_log_environment_directory_and_cpus(own: Supervisor, tmp_path: Path) -> None:
    """Output goes to the log file; environment, directory and CPUs are the ones asked for."""
    code = "import os as o; print(o.environ['COLOUR'], o.getcwd(), *o.sched_getaffinity(0), o.getsid(0) == o.getpid())"
    last = max(os.sched_getaffinity(0))
    argv = [sys.executable, "-c", code]
    child = own.start("printer", argv, {"COLOUR": "blue"}, log=tmp_path / "log", cwd=tmp_path, cpus=[last])
    assert until(lambda: child.poll() == 0)
    assert (tmp_path / "log").read_text() == f"blue {tmp_path} {last} True\n"


def test_one_that_dies_is_restarted_after_a_second(own: Supervisor, tmp_path: Path) -> None:
    """A process started with restart comes back after any end, and both lives are recorded."""
    child = start_python(own, "phoenix", "import time; time.sleep(600)", tmp_path / "log", restart=True)
    first = child.pid
    assert own.signal("phoenix", signal.SIGKILL) == [first]
    assert until(lambda: child.starts == 2)
    assert child.pid != first
    assert child.poll() is None
    (ended,) = records_of(own, "phoenix", "ended")
    second = records_of(own, "phoenix", "started")[1]
    assert ended["signal"] == signal.SIGKILL
    assert second["started_ns"] - ended["t_ns"] >= 1e9


def test_one_that_was_stopped_stays_stopped(own: Supervisor, tmp_path: Path) -> None:
    """Stop overrules restart, also while it waits to be restarted."""
    child = start_python(own, "phoenix", "", tmp_path / "log", restart=True)
    assert until(lambda: child.poll() == 0)
    own.stop("phoenix", grace_s=5)
    later = start_python(own, "later", "", tmp_path / "later.log", restart=True)
    assert until(lambda: later.starts == 2), "nor does one that ended after it"
    assert child.starts == 1


def test_stop_asks_first_and_then_kills_the_whole_tree(own: Supervisor, tmp_path: Path) -> None:
    """What ignores SIGTERM, has left the session and was orphaned is gone when stop returns."""
    start_python(own, "tree", TREE, tmp_path / "log", str(tmp_path / "pids"))
    processes = processes_in(tmp_path / "pids")
    own.stop("tree", grace_s=0.3)
    assert alive(processes) == []
    assert records_of(own, "tree", "ended")[0]["signal"] == signal.SIGKILL


def test_a_signal_to_the_tree_reaches_all_of_it(own: Supervisor, tmp_path: Path) -> None:
    """The pids that got the signal are told, orphans included; what ended as an orphan is recorded with its owner."""
    start_python(own, "tree", TREE, tmp_path / "log", str(tmp_path / "pids"))
    processes = processes_in(tmp_path / "pids")
    assert set(own.signal("tree", signal.SIGKILL, tree=True)) == {process.pid for process in processes}
    assert until(lambda: not alive(processes))
    ended = {process.pid for process in processes}
    assert until(lambda: ended == {record["pid"] for record in records_of(own, "tree", "ended")})


def test_what_a_dead_process_leaves_behind_is_killed(own: Supervisor, tmp_path: Path) -> None:
    """As in a container: when the main process is killed, its children do not stay beside the restarted one."""
    start_python(own, "tree", TREE, tmp_path / "log", str(tmp_path / "pids"))
    processes = processes_in(tmp_path / "pids")
    own.signal("tree", signal.SIGKILL)
    assert until(lambda: not alive(processes))


def test_the_death_of_a_grandchild_is_recorded(own: Supervisor, tmp_path: Path) -> None:
    """A child of the process that its parent waits for is recorded too, its status being the parent's to know."""
    code = "import subprocess, sys; subprocess.run(['sleep', '600']); subprocess.run(['sleep', '600'])"
    child = start_python(own, "parent", code, tmp_path / "log")
    assert until(lambda: psutil.Process(child.pid).children())
    time.sleep(1.5)  # it is seen once a second
    (grandchild,) = psutil.Process(child.pid).children()
    grandchild.kill()
    assert until(lambda: records_of(own, "parent", "ended"))
    (ended,) = records_of(own, "parent", "ended")
    assert (ended["pid"], ended["kind"], ended["status"]) == (grandchild.pid, "descendant", None)
    assert ended["started_ns"] < ended["t_ns"]


@pytest.mark.parametrize("argv", [["/no/such/program"], ["/etc/passwd"]])
def test_what_cannot_be_started_is_named_in_one_sentence(own: Supervisor, tmp_path: Path, argv: list[str]) -> None:
    """The error names process and reason, and the supervisor goes on."""
    with pytest.raises(StackError, match=rf"^api could not be started: .*{argv[0]}.*\.$"):
        own.start("api", argv, {}, log=tmp_path / "log")
    start_python(own, "api", "", tmp_path / "log")


def test_a_name_cannot_be_used_twice_at_once(own: Supervisor, tmp_path: Path) -> None:
    """A second process of the same name is refused, and the first is still known."""
    first = start_python(own, "api", "import time; time.sleep(600)", tmp_path / "log")
    with pytest.raises(StackError, match=r"^api could not be started: it runs already\.$"):
        start_python(own, "api", "", tmp_path / "log")
    assert own.children["api"] is first


def test_closing_ends_everything_and_removes_what_was_temporary(tmp_path: Path) -> None:
    """After the with block no process of it is left, nor the directory that was to be removed."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with Supervisor(tmp_path / "own") as supervisor:
        supervisor.remove_at_end(scratch)
        start_python(supervisor, "tree", TREE, tmp_path / "log", str(tmp_path / "pids"), restart=True)
        processes = [*processes_in(tmp_path / "pids"), psutil.Process(supervisor.pid)]
    assert alive(processes) == []
    assert not scratch.exists()


def test_ctrl_c_does_not_reach_what_the_lab_has_started(own: Supervisor) -> None:
    """The warden is in a session of its own, so the terminal's signals do not go there."""
    assert os.getsid(own.pid) == own.pid


@dataclass
class SmallLab:
    """A lab in a process of its own, with everything up."""

    process: psutil.Popen
    warden: int
    data: Path

    def started(self) -> list[psutil.Process]:
        """Return all processes it has started, PostgreSQL's backends included."""
        return self.process.children(recursive=True)


@pytest.fixture
def small_lab(tmp_path: Path) -> Iterator[SmallLab]:
    """A lab in small, up."""
    (tmp_path / "tree.py").write_text(TREE)
    command = [sys.executable, "-c", LAB, str(tmp_path), str(tmp_path / "tree.py")]
    with (tmp_path / "lab.log").open("wb") as log:
        process = psutil.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    up = tmp_path / "up"
    try:
        # It is there a moment before there is anything in it.
        assert until(lambda: up.exists() and len(up.read_text().split()) == 2), (tmp_path / "lab.log").read_text()
        processes_in(tmp_path / "pids")
    except AssertionError:
        process.kill()
        raise
    warden, data = up.read_text().split()
    lab = SmallLab(process, int(warden), Path(data))
    started = lab.started()
    yield lab
    for each in [process, *alive(started)]:  # where a test has failed, and where nobody else can
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()
    proc.remove_directory(lab.data.parent)


def test_nothing_survives_a_sigkill_of_the_lab(small_lab: SmallLab) -> None:
    """Five seconds after it nothing runs, and PostgreSQL's data directory is gone."""
    processes = small_lab.started()
    assert len(processes) >= 10
    assert small_lab.data.exists()
    small_lab.process.kill()
    assert until(lambda: not alive(processes), within_s=5), alive(processes)
    assert not small_lab.data.parent.exists()


def test_nothing_survives_a_sigkill_of_the_warden(small_lab: SmallLab) -> None:
    """The lab itself lives on and ends what is left."""
    processes = small_lab.started()
    os.kill(small_lab.warden, signal.SIGKILL)
    assert until(lambda: not alive(processes), within_s=5), alive(processes)
    assert until(lambda: not small_lab.data.parent.exists())
    assert small_lab.process.poll() is None


def test_the_kernel_ends_what_lab_and_warden_cannot(small_lab: SmallLab) -> None:
    """Where both are killed at once, the processes that the warden had started die with it."""
    services = psutil.Process(small_lab.warden).children()
    small_lab.process.suspend()  # it cannot help
    os.kill(small_lab.warden, signal.SIGKILL)
    assert until(lambda: not alive(services), within_s=5), alive(services)


def test_a_dead_warden_is_told_in_one_sentence(tmp_path: Path) -> None:
    """Whoever waits for a process learns that it ended, and a later request says where to look."""
    with Supervisor(tmp_path / "own") as supervisor:
        child = start_python(supervisor, "api", "import time; time.sleep(600)", tmp_path / "log")
        os.kill(supervisor.pid, signal.SIGKILL)
        assert until(lambda: child.poll() is not None)
        with pytest.raises(StackError, match=r"^api could not be stopped: the supervisor is gone, see .*\.log\.$"):
            supervisor.stop("api", grace_s=1)


def test_an_orphan_without_a_mark_in_a_session_of_its_own_is_ended_too(tmp_path: Path) -> None:
    """It tells nobody whose it is; it is a descendant all the same."""
    code = (
        "import subprocess, sys; "
        "process = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], env={}, "
        "start_new_session=True); print(process.pid, flush=True)"
    )
    with Supervisor(tmp_path / "own") as own:
        start_python(own, "parent", code, tmp_path / "log")
        assert until(lambda: (tmp_path / "log").exists() and (tmp_path / "log").read_text().endswith("\n"))
        orphan = psutil.Process(int((tmp_path / "log").read_text()))
        assert until(lambda: orphan.ppid() == own.pid)
        later = start_python(own, "later", "import time; time.sleep(600)", tmp_path / "later.log")
        time.sleep(1.5)  # it is looked at once a second
        assert later.poll() is None, "the warden did not live to see it"
    assert not alive([orphan])


# A lab whose disk is full: neither the warden's records nor its complaints can be written.
FULL_DISK = """
import json, os, pathlib, subprocess, sys, time
folder = pathlib.Path(sys.argv[1])
with open("/dev/full", "ab") as full:
    warden = subprocess.Popen(
        [sys.executable, "-m", "lab.stacks.warden", "/dev/full"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=full, start_new_session=True,
    )
parent = "import subprocess, sys, time; subprocess.Popen(sys.argv[1:], start_new_session=True); time.sleep(600)"
sleeper = "import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(600)"
service = {
    "name": "parent", "argv": [sys.executable, "-c", parent, sys.executable, "-c", sleeper, str(folder / "pid")],
    "env": dict(os.environ), "cwd": None, "cpus": None, "log": str(folder / "log"), "restart": True, "user": None,
    "stop_signal": 15,
}
scratch = {"request": 1, "do": "scratch", "directory": str(folder / "scratch")}
for request in (scratch, {"request": 2, "do": "start"} | service):
    warden.stdin.write(json.dumps(request).encode() + b"\\n")
warden.stdin.flush()
time.sleep(600)
"""


def test_nothing_survives_a_sigkill_of_a_lab_whose_disk_is_full(tmp_path: Path) -> None:
    """The warden ends all and removes what was temporary, though it can write down neither that nor why not."""
    (tmp_path / "scratch").mkdir()
    lab = psutil.Popen([sys.executable, "-c", FULL_DISK, str(tmp_path)])
    started: list[psutil.Process] = []
    try:
        assert until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        started = lab.children(recursive=True)
        lab.kill()
        assert len(started) == 3
        assert int((tmp_path / "pid").read_text()) in {process.pid for process in started}
        assert until(lambda: not alive(started), within_s=5), alive(started)
        assert not (tmp_path / "scratch").exists()
    finally:
        for each in [lab, *alive(started)]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        lab.wait()
