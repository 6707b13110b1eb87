"""Each rule that voids a block, provoked in a real one; and what a contender does wrong, which voids nothing.

Elsewhere, in real blocks as well: journal and effects that differ (``test_defects.py``), a journal of another clock
(``test_own_apps.py``).
"""

import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import duckdb
import psutil
import pytest

from lab import faults, load, run
from lab.clock import ClockReading
from lab.contenders import load_contenders
from lab.environment import PROJECT, available_cpus
from lab.faults import FAULTS, Fault
from lab.rundir import BlockRecord, ContenderRecord, RunDir
from lab.stacks import local
from lab.stacks.local import Servers
from lab.stacks.servers import MailSink, free_port, wait_until_up
from lab.stacks.stack import Stack
from lab.stacks.supervisor import Supervisor
from tests.realblocks import PLACEMENT, gets, load_of, measure_block, only
from tests.support import steal, until

KNOWN = load_contenders(PROJECT / "contenders.toml")
# Answers after 20 ms, does no work and is up in no time.
CONSTANT = ContenderRecord(
    name="constant",
    title="20 ms, always",
    api=["{python}", "-m", "lab.known_servers", "constant", "{port}"],
    journal=False,
    slots="no tasks",
)


def outcomes(folder: Path) -> dict[str, int]:
    """Return how many requests of a block ended in which way."""
    sql = "SELECT outcome, count(*) FROM read_parquet($requests) GROUP BY outcome"
    return dict(duckdb.execute(sql, {"requests": str(folder / "requests.parquet")}).fetchall())


@contextmanager
def once_under_load(out: Path, act: Callable[[], object]) -> Iterator[None]:
    """Do something once some requests of a block have been answered."""

    def wait_and_act() -> None:
        if until(lambda: any(file.stat().st_size > 1_000 for file in out.glob("*/blocks/*/requests.jsonl")), 30):
            act()

    acting = Thread(target=wait_and_act)
    acting.start()
    yield
    acting.join()


def kill(shared: Servers, *names: str) -> Callable[[], object]:
    """Return what kills processes of the supervisor's, with all that they have started."""
    return lambda: [shared.supervisor.signal(name, signal.SIGKILL, tree=True) for name in names]


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has not ended in a third of a second is killed at the end of a block."""
    monkeypatch.setattr(local, "STOP_GRACE_S", 0.3)


@pytest.mark.alone
def test_on_an_undisturbed_machine_it_is_known_what_the_broker_used(shared: Servers, tmp_path: Path) -> None:
    """Each task went through it, in and out."""
    scenario = load_of("action", rate=20, duration_s=2)
    block, _ = measure_block(shared, tmp_path, KNOWN["celery"], scenario, void_repeats=2)
    assert block.broker is not None
    assert block.broker.memory_bytes > 0
    assert block.broker.net_bytes > 200 * 20 * 2, "the ids alone of each task are longer"


@pytest.mark.alone
@pytest.mark.usefixtures("nothing_stolen")
def test_an_undisturbed_block_is_valid(shared: Servers, tmp_path: Path) -> None:
    """With work, journal, effects and bystanders; while the machine makes it late, and nothing else, measured again.

    No CPU is stolen, or so psutil is made to say.
    """
    scenario = load_of("mixed", rate=20, warmup_s=0.5, duration_s=4)
    block, folder = measure_block(shared, tmp_path, KNOWN["inline"], scenario, void_repeats=2)
    (run_dir,) = tmp_path.iterdir()
    disturbed = [why for each in RunDir(run_dir).read().blocks[:-1] for why in each.why]
    assert [why for why in disturbed if not why.startswith("The load generator was late")] == []
    assert (block.state, block.valid, block.why) == ("finished", True, [])
    assert outcomes(folder).keys() == {"acknowledged"}


# The generator

# Takes a CPU for 20 ms in every 30, before everybody else where it may, and else all the time.
BURN = """
import os, time
rest_s = 0.01
try:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
except PermissionError:
    rest_s = 0
while True:
    end = time.monotonic() + 0.02
    while time.monotonic() < end:
        pass
    time.sleep(rest_s)
"""


@pytest.mark.alone
@pytest.mark.skipif(not PLACEMENT.pinned, reason="this system cannot pin")
def test_a_generator_without_its_cpu_is_late(shared: Servers, tmp_path: Path) -> None:
    """Somebody else takes it from Locust again and again; bystanders are sent late too."""
    burners: list[psutil.Popen] = []

    def burn() -> None:
        for cpu in PLACEMENT.generator:
            burners.append(psutil.Popen([sys.executable, "-c", BURN]))
            burners[-1].cpu_affinity([cpu])

    try:
        with once_under_load(tmp_path, burn):
            block, _ = measure_block(shared, tmp_path, CONSTANT, gets(rate=100, duration_s=2, bystanders=True))
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    assert not block.valid
    for late in ("requests were sent late by", "bystanders were sent late by"):
        assert any(late in why for why in block.why), block.why


HOLDS_ITS_LOOP = """
import gevent
from gevent.monkey import get_original
from loadtests.locustfile import *

def hold():
    while True:
        get_original("time", "sleep")(0.03)
        gevent.sleep(0.02)

gevent.spawn(hold)
"""

# Has no file descriptor left once it has a connection; further requests at the same time need further connections.
SHORT_OF_FILES = """
import resource
from loadtests import sender
from loadtests.locustfile import *

connect = sender._open

def last_of_all(*address):
    sender._open = connect
    sock = connect(*address)
    resource.setrlimit(resource.RLIMIT_NOFILE, (sock.fileno() + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return sock

sender._open = last_of_all
"""

# Ends in order, with a last line still to be written.
WITHOUT_LAST_LINE = """
import os
from loadtests.locustfile import *

Recorder.close = lambda *_: os._exit(0)
"""


@pytest.fixture
def locustfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that Locust loads in place of the lab's."""
    command, file = load.locust_command, tmp_path / "locustfile.py"
    usual = str(PROJECT / "loadtests" / "locustfile.py")

    def with_another(*args: object) -> list[str]:
        return [str(file) if part == usual else part for part in command(*args)]  # type: ignore[arg-type]

    monkeypatch.setattr(load, "locust_command", with_another)
    return file


@pytest.mark.alone
def test_a_generator_that_holds_its_loop_is_late(shared: Servers, tmp_path: Path, locustfile: Path) -> None:
    """It stamps what happens meanwhile when it is over."""
    locustfile.write_text(HOLDS_ITS_LOOP)
    block, _ = measure_block(shared, tmp_path, CONSTANT, gets(rate=100))
    assert not block.valid
    assert any("its event loop ran late by" in why for why in block.why), block.why


def test_what_the_generator_is_too_short_to_send_voids_the_block(
    shared: Servers, tmp_path: Path, locustfile: Path
) -> None:
    """It has no file left for another connection, and the contender has all the room in the world."""
    locustfile.write_text(SHORT_OF_FILES)
    block, folder = measure_block(shared, tmp_path, CONSTANT, gets(rate=100))
    assert not block.valid
    assert any("not sent although fewer than" in why for why in block.why), block.why
    assert outcomes(folder).keys() == {"acknowledged", "unsent"}


def test_samples_without_a_last_line_void_the_block(shared: Servers, tmp_path: Path, locustfile: Path) -> None:
    """Locust calls itself well; how late its loop ran is not known, nor what it had not written yet."""
    locustfile.write_text(WITHOUT_LAST_LINE)
    block, folder = measure_block(shared, tmp_path, CONSTANT, gets(rate=100))
    assert (block.state, block.valid) == ("finished", False)
    only(block.why, "The samples were cut off")
    assert outcomes(folder)["acknowledged"] > 0


def test_a_lost_locust_worker_voids_the_block(shared: Servers, tmp_path: Path) -> None:
    """It is killed while it sends; what it was to send from then on has no answer."""

    def kill_a_worker() -> None:
        psutil.Process(shared.supervisor.children["locust"].pid).children()[0].kill()

    with once_under_load(tmp_path, kill_a_worker):
        block, folder = measure_block(shared, tmp_path, CONSTANT, gets(rate=50, duration_s=2), generators=2)
    assert (block.state, block.valid) == ("finished", False)
    only(block.why, "The load generator lost 1 of its 2 Locust workers")
    assert outcomes(folder).keys() >= {"acknowledged", "indeterminate"}


def test_samples_that_are_cut_off_are_no_block(shared: Servers, tmp_path: Path) -> None:
    """Locust is killed while it sends: what there would be to judge is missing, and its end is the reason."""
    with once_under_load(tmp_path, kill(shared, "locust")):
        block, _ = measure_block(shared, tmp_path, CONSTANT, gets(rate=100, duration_s=20))
    assert (block.state, block.valid) == ("failed", False)
    only(block.why, "The load generator ended with status -9")


# The machine


def test_a_stepped_clock_voids_the_block(shared: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the record of a real block: nobody should step the clock of a machine."""
    steps_ns = iter((0, 60_000_000))

    class Stepped(ClockReading):
        @classmethod
        def now(cls) -> ClockReading:
            reading = ClockReading.now()
            return replace(reading, wall_ns=reading.wall_ns + next(steps_ns))

    monkeypatch.setattr(run, "ClockReading", Stepped)
    block, _ = measure_block(shared, tmp_path, CONSTANT, gets(rate=50))
    assert not block.valid
    assert any("The clock stepped: the wall clock moved +60 ms" in why for why in block.why), block.why


class Thief:
    """Has taken a share of the time of a CPU, in the window of the one block that is measured or beside it."""

    def __init__(self, out: Path, in_window: float, beside: float) -> None:
        self._out, self._in_window, self._beside = out, in_window, beside
        self._began_ns = time.monotonic_ns()
        self._window: tuple[int, int] | None = None

    def took_s(self) -> float:
        """Return for how many seconds it has had the CPU until now."""
        now_ns = time.monotonic_ns()
        start_ns, end_ns = self._find_window() or (now_ns, now_ns)
        inside_ns = max(0, min(now_ns, end_ns) - start_ns)
        return (self._in_window * inside_ns + self._beside * (now_ns - self._began_ns - inside_ns)) / 1e9

    def _find_window(self) -> tuple[int, int] | None:
        for file in self._out.glob("*/blocks/*/requests.jsonl"):
            with suppress(OSError, StopIteration, ValueError):  # its first line is still to come
                header = load.read_header(file)
                self._window = header["window_start_ns"], header["window_end_ns"]
        return self._window


@pytest.mark.alone  # beside others the sampler, which steps back for everybody, would look too rarely
@pytest.mark.parametrize(("in_window", "beside", "of_others"), [(0.12, 0.0, 0.0), (0.0, 0.1, 1.0)])
def test_a_cpu_that_is_stolen_in_the_window_voids_the_block(
    shared: Servers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    in_window: float,
    beside: float,
    of_others: float,
) -> None:
    """In the record of a real block, by what psutil is made to say: from inside nobody can take CPUs from a machine.

    A drain longer than the window hides nothing; what is taken before it, in the drain, or of seven CPUs in eight,
    which the lab may not use, is no disturbance.
    """
    ours, cpus = available_cpus(), 8 * (max(available_cpus()) + 1)
    thief, elsewhere = Thief(tmp_path, in_window, beside), Thief(tmp_path, of_others, of_others)
    steal(monkeypatch, cpus, lambda cpu: (thief if cpu in ours else elsewhere).took_s())
    scenario = load_of("probe", rate=4, probe_work="io", probe_seconds=2.5, warmup_s=0.1, duration_s=1.5)
    block, _ = measure_block(shared, tmp_path, KNOWN["inline"], scenario)
    assert block.state == "finished", block.why
    assert any("The CPU was taken away" in why for why in block.why) is (in_window > 0), block.why


# The servers that all share


@pytest.fixture
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Shared servers to be killed, which do not come back."""
    with Supervisor(tmp_path_factory.mktemp("fragile")) as supervisor, Servers(supervisor, PLACEMENT) as servers:
        yield servers


def test_shared_servers_that_are_killed_void_the_block(fragile: Servers, tmp_path: Path) -> None:
    """Whoever was being measured, and needed them or not."""
    with once_under_load(tmp_path, kill(fragile, "mail", "postgres")):
        block, _ = measure_block(fragile, tmp_path, CONSTANT, gets(rate=50))
    assert (block.state, block.valid) == ("finished", False)
    assert {"The mail sink was away: its process ended.", "PostgreSQL was away: its process ended."} <= set(block.why)


@pytest.mark.alone  # beside others the pulse, which steps back for everybody, would ask too rarely
def test_shared_servers_that_hang_or_hang_up_void_the_block(fragile: Servers, tmp_path: Path) -> None:
    """Both stand still for two seconds; then PostgreSQL ends all connections, as it does where a backend is killed."""

    def hang_and_hang_up() -> None:
        for signum, for_s in ((signal.SIGSTOP, 2.2), (signal.SIGCONT, 1.2)):
            for name in ("postgres", "mail"):
                fragile.supervisor.signal(name, signum, tree=True)
            time.sleep(for_s)
        backends = psutil.Process(fragile.postgres.pid).children()
        next(one for one in backends if "postgres postgres" in " ".join(one.cmdline())).kill()

    with once_under_load(tmp_path, hang_and_hang_up):
        block, _ = measure_block(fragile, tmp_path, CONSTANT, gets(rate=50, duration_s=8))
    assert (block.state, block.valid) == ("finished", False)
    for said in ("PostgreSQL hung:", "The mail sink hung:", "PostgreSQL was away: it hung up"):
        assert any(why.startswith(said) for why in block.why), block.why


def test_a_postgresql_that_is_killed_takes_the_evidence_along(fragile: Servers, tmp_path: Path) -> None:
    """Without the rows nobody can say what became of the tasks; whose doing that was is said first."""
    with once_under_load(tmp_path, kill(fragile, "postgres")):
        block, _ = measure_block(
            fragile, tmp_path, KNOWN["inline"], load_of("action", rate=20, warmup_s=0, duration_s=1)
        )
    assert (block.state, block.valid) == ("failed", False)
    away, unread = block.why
    assert away == "PostgreSQL was away: its process ended."
    assert "The rows of the block could not be read" in unread


# Hangs up on whoever was silent for a fifth of a second; the lab asks twice a second.
IMPATIENT = """
import asyncio, functools, pathlib, sys
from lab.stacks import mailsink
mailsink.SMTP = functools.partial(mailsink.SMTP, timeout=0.2)
asyncio.run(mailsink.serve(int(sys.argv[1]), pathlib.Path(sys.argv[2])))
"""


def test_a_mail_sink_that_hangs_up_voids_the_block(shared: Servers, tmp_path: Path) -> None:
    """Its process goes on, and takes new connections."""
    port, file, log = free_port(), tmp_path / "mails.jsonl", tmp_path / "log"
    command = [sys.executable, "-c", IMPATIENT, str(port), str(file)]
    child = shared.supervisor.start("impatient", command, {}, log=log, cwd=PROJECT)
    impatient = copy(shared)
    impatient.mail = MailSink("impatient", f"smtp://127.0.0.1:{port}", "aiosmtpd", shared.supervisor, child, file)
    try:
        wait_until_up([child], port, lambda: socket.create_connection(("127.0.0.1", port)).close())
        block, _ = measure_block(impatient, tmp_path, CONSTANT, gets(rate=50, duration_s=2))
        assert child.runs()
    finally:
        impatient.mail.stop()
    assert (block.state, block.valid) == ("finished", False)
    assert "The mail sink was away: it hung up on the lab." in block.why


# The journal


def test_a_line_of_the_journal_that_cannot_be_read_voids_the_block(shared: Servers, tmp_path: Path) -> None:
    """It comes among the others while the app writes these, and is half of one, as several writes leave it."""

    def scribble() -> None:
        (journal,) = tmp_path.glob("*/blocks/*/data/journal/*.jsonl")
        with journal.open("ab") as lines:
            lines.write(b'{"task_id": "6f0c\n')

    with once_under_load(tmp_path, scribble):
        scenario = load_of("action", rate=50, warmup_s=0.1, duration_s=1)
        block, _ = measure_block(shared, tmp_path, KNOWN["inline"], scenario)
    assert (block.state, block.valid) == ("finished", False)
    assert any(why.startswith("1 line of the journal cannot be read") for why in block.why), block.why


# Faults


def test_a_fault_for_which_the_window_is_too_short_voids_its_block(shared: Servers, tmp_path: Path) -> None:
    """It is over before anybody can do something in it."""
    short = {"faults": ["api-kill"], "injections": 1, "fault_duration_s": 1e-6}
    block, folder = measure_block(shared, tmp_path, CONSTANT, gets(rate=50), **short)
    assert (block.state, block.valid, block.injections) == ("finished", False, 0)
    assert "The fault api-kill was never injected: the window is too short for it." in block.why
    assert outcomes(folder).keys() == {"acknowledged"}


# Serves as the constant server does, and takes no notice of SIGTERM.
STUBBORN = """
import runpy, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
runpy.run_module("lab.known_servers", run_name="__main__")
"""


def test_a_fault_that_does_not_bite_voids_its_block(
    shared: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API is told to end, takes no notice and goes on."""

    def terminate(stack: Stack, names: list[str], _over: Event) -> list[int]:
        return [pid for name in names for pid in shared.supervisor.signal(name, signal.SIGTERM)]

    term = Fault("api-term", "SIGTERM of the API", lambda stack: [stack.api], terminate)
    monkeypatch.setitem(FAULTS, "api-term", term)
    monkeypatch.setattr(faults, "CONFIRMED_WITHIN_S", 0.3)
    stubborn = CONSTANT.model_copy(update={"api": ["{python}", "-c", STUBBORN, "constant", "{port}"]})
    block, folder = measure_block(
        shared, tmp_path, stubborn, gets(rate=50), faults=["api-term"], injections=1, fault_duration_s=1
    )
    assert not block.valid
    assert "The fault api-term was injected and did not happen." in block.why
    assert outcomes(folder).keys() == {"acknowledged"}


def test_a_fault_that_goes_wrong_fails_its_block_and_no_other(
    shared: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it was, the one after it is measured."""
    nothing: dict[str, str] = {}
    broken = Fault("broken", "fails", lambda _: [nothing["at all"]], lambda *_: [])
    monkeypatch.setitem(FAULTS, "broken", broken)
    directory = measure_block(
        shared, tmp_path, CONSTANT, gets(rate=50), faults=["broken", "api-kill"], injections=1, fault_duration_s=1
    )[1].parents[1]
    blocks = {block.fault: block for block in RunDir(directory).read().blocks}
    assert blocks["broken"].state == "failed"
    assert blocks["broken"].why == ["A fault could not be injected: KeyError('at all')."]
    assert blocks["api-kill"].state == "finished"


# What the contender does wrong


def void_but_for_lateness(block: BlockRecord) -> list[str]:
    """Return why a block is void, without a generator that was late: the machine of this test may be a busy one."""
    assert block.state == "finished", block.why
    return [why for why in block.why if not why.startswith("The load generator was late")]


def test_a_contender_that_dies_and_refuses_is_its_result(shared: Servers, tmp_path: Path) -> None:
    """Each task kills the API, which is started again after a second; meanwhile nobody listens."""
    crashing = KNOWN["inline"].model_copy(update={"env": {"ALLOW_CRASH": "1"}})
    scenario = load_of("probe", rate=4, probe_work="crash", probe_seconds=0, warmup_s=0, duration_s=2)
    block, folder = measure_block(shared, tmp_path, crashing, scenario, horizon_s=1)
    assert void_but_for_lateness(block) == []
    assert outcomes(folder)["refused"] > 0
    assert (folder / "evidence" / "processes.jsonl").read_text().count('"ended"') > 0


def test_a_dead_worker_and_an_endless_drain_are_the_contenders_result(shared: Servers, tmp_path: Path) -> None:
    """It is killed with a task in its hands, and those that wait would take minutes; the horizon is after a second."""
    scenario = load_of("probe", rate=10, probe_work="io", probe_seconds=60, warmup_s=0, duration_s=1.5)
    with once_under_load(tmp_path, kill(shared, "celery-worker-1")):
        block, folder = measure_block(shared, tmp_path, KNOWN["celery"], scenario, horizon_s=1)
    assert void_but_for_lateness(block) == []
    assert block.drained_ns is not None
    assert block.window_end_ns is not None
    assert block.drained_ns > block.window_end_ns
    sql = "SELECT DISTINCT fate FROM read_parquet($tasks)"
    fates = {fate for (fate,) in duckdb.execute(sql, {"tasks": str(folder / "tasks.parquet")}).fetchall()}
    assert fates <= {"pending", "stranded", "lost"}
    assert "pending" in fates
    assert fates & {"stranded", "lost"}
