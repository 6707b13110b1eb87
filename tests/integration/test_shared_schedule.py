"""One fixed schedule over several Locust workers: together they send what one process sends, and a loss is told."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lab import load, validity
from tests.blockmaker import Block, record
from tests.loadserver import LoadServer, free_port, load_server
from tests.support import SLOW_TO_LISTEN, until

PROJECT = Path(__file__).parent.parent.parent
LOCUST = [sys.executable, "-m", "locust", "--only-summary", "-f"]
LOCUSTFILE = "loadtests/locustfile.py"
ELSEWHERE = (
    "import loadtests.shared\nloadtests.shared.boot_id = lambda: 'another'\nfrom loadtests.locustfile import *\n"
)

DELAY_S = 0.2

Start = Callable[..., "subprocess.Popen[str]"]


class Samples(NamedTuple):
    """A samples file in its three parts, the rows in the order of their numbers."""

    header: dict[str, Any]
    rows: list[dict[str, Any]]
    footer: dict[str, Any]

    def plan(self) -> list[tuple[Any, ...]]:
        """Return what was to be sent, and when, counted from the start."""
        names = ("seq", "stream", "phase", "route", "request_id", "tasks", "contender")
        start_ns = self.header["start_ns"]
        return [(row["intended_ns"] - start_ns, *(row[name] for name in names)) for row in self.rows]


def read(path: Path) -> Samples:
    """Read a samples file whose load is over."""
    header, *rows, footer = [json.loads(line) for line in path.read_text().splitlines()]
    return Samples(header, sorted(rows, key=lambda row: row["seq"]), footer)


@pytest.fixture
def locust() -> Iterator[Start]:
    """Start Locust: ``locust(*options, file=...)``. What still runs at the end of the test is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(*options: str, file: Path | str = LOCUSTFILE) -> "subprocess.Popen[str]":
        command = [*LOCUST, str(file), *options]
        started.append(
            subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Wait for Locust and return its exit status and all that it printed."""
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def schedule(server: LoadServer, samples: Path, duration_s: float, warmup_s: float = 0.0) -> list[str]:
    """Return the options of a schedule of 60 + 2 × 20 requests per second."""
    options = f"--headless --scenario mixed --rate 60 --bystanders 20 --seed 7 --warmup {warmup_s}".split()
    return [*options, "--duration", str(duration_s), "--host", server.host, "--samples", str(samples)]


class Shared:
    """A master and its workers, which have a schedule to share."""

    def __init__(self, locust: Start, workers: int, options: list[str], file: Path | str = LOCUSTFILE) -> None:
        port = str(free_port())
        bind = ["--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--expect-workers", str(workers)]
        self.master = locust("--master", *bind, *options)
        at = ["--worker", "--master-host", "127.0.0.1", "--master-port", port]
        self.workers = [locust(*at, file=file) for _ in range(workers)]


def test_four_workers_send_together_what_one_process_sends(locust: Start, tmp_path: Path) -> None:
    """The same requests at the same times, each once; and each has the times that its server saw, whoever sent it."""
    port = str(free_port())
    four_processes = ["--processes", "4", "--master-bind-port", port, "--master-port", port]
    with load_server(delay_s=DELAY_S) as one, load_server(delay_s=DELAY_S) as four:
        running = [
            locust(*schedule(one, tmp_path / "one", 1.5, warmup_s=0.5)),
            locust(*schedule(four, tmp_path / "four", 1.5, warmup_s=0.5), *four_processes),
        ]
        for process in running:
            status, output = ended(process)
            assert status == 0, output
    alone, shared = read(tmp_path / "one"), read(tmp_path / "four")
    assert alone.plan() == shared.plan()
    assert sorted(r.request_id for r in one.received) == sorted(r.request_id for r in four.received)
    assert {row["outcome"] for row in alone.rows + shared.rows} == {"acknowledged"}
    assert len(alone.rows) == len(one.received) == shared.footer["sent"]
    for samples, server in ((alone, one), (shared, four)):
        came_ns = {request.request_id: request.at_ns for request in server.received}
        for row in samples.rows:
            at_ns = came_ns[row["request_id"]]
            assert row["intended_ns"] <= row["sent_ns"] <= at_ns <= row["ended_ns"] - DELAY_S * 0.99e9
    assert [(each.header["workers"], each.footer["workers_lost"]) for each in (alone, shared)] == [(1, 0), (4, 0)]
    assert alone.header.keys() == shared.header.keys()
    assert alone.footer.keys() == shared.footer.keys()


def test_a_worker_that_was_told_to_start_before_it_listened_takes_part(locust: Start, tmp_path: Path) -> None:
    """Its master does not wait for ever."""
    locustfile = tmp_path / "locustfile.py"
    locustfile.write_text(SLOW_TO_LISTEN)
    port = str(free_port())
    two_processes = ["--processes", "2", "--master-bind-port", port, "--master-port", port]
    with load_server() as server:
        status, output = ended(locust(*schedule(server, tmp_path / "samples", 0.5), *two_processes, file=locustfile))
    assert status == 0, output
    samples = read(tmp_path / "samples")
    assert samples.footer["sent"] == len(samples.rows) == len(server.received) > 0


def test_a_killed_worker_is_told_and_its_requests_have_their_rows(locust: Start, tmp_path: Path) -> None:
    """On the terminal, by the exit status, in the samples and by a void block; the others send all of theirs."""
    path = tmp_path / "samples"
    with load_server() as server:
        shared = Shared(locust, 3, schedule(server, path, 7))
        assert until(lambda: len(server.received) >= 100, 40)
        shared.workers[0].kill()
        status, output = ended(shared.master)
    assert status == 3, output
    assert "Locust workers lost: 1 of 3" in output
    assert "Traceback" not in output
    samples = read(path)
    assert [row["seq"] for row in samples.rows] == list(range(len(samples.rows)))
    assert len({row["seq"] % 3 for row in samples.rows if row["outcome"] != "acknowledged"}) == 1
    told = Counter((row["outcome"], row["error"]) for row in samples.rows)
    assert told.keys() == {
        ("acknowledged", None),
        ("indeterminate", "its Locust worker was lost"),
        ("unsent", "its Locust worker was lost before it was due"),
    }
    assert samples.footer["sent"] == told["acknowledged", None]
    known = {row["request_id"]: row["outcome"] for row in samples.rows}
    assert {known[request.request_id] for request in server.received} <= {"acknowledged", "indeterminate"}
    instrument = load.read_footer(path)
    why = validity.judge(tmp_path, record(Block("inline"), instrument=instrument))
    assert why == ["The load generator lost 1 of its 3 Locust workers, and so part of the load."]


def test_stopped_early_every_request_has_its_row(locust: Start, tmp_path: Path) -> None:
    """What the workers had in flight is indeterminate, what was to come is unsent, and no worker was lost."""
    path = tmp_path / "samples"
    with load_server(lambda _: "silence") as server:
        shared = Shared(locust, 2, schedule(server, path, 60))
        assert until(lambda: len(server.received) >= 25, 40)
        shared.master.terminate()
        status, output = ended(shared.master)
    assert status == 1, output
    assert "Traceback" not in output
    samples = read(path)
    assert [row["seq"] for row in samples.rows] == list(range(len(samples.rows)))
    assert {(row["outcome"], row["error"]) for row in samples.rows} == {
        ("indeterminate", "stopped while in flight"),
        ("unsent", "stopped before it was sent"),
    }
    in_flight = {row["request_id"] for row in samples.rows if row["outcome"] == "indeterminate"}
    assert {request.request_id for request in server.received} <= in_flight
    assert samples.footer["workers_lost"] == 0


def test_a_worker_on_another_machine_is_refused_before_anything_is_sent(locust: Start, tmp_path: Path) -> None:
    """Its clock is another one."""
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE)
    with load_server() as server:
        shared = Shared(locust, 1, schedule(server, tmp_path / "samples", 1), tmp_path / "elsewhere.py")
        status, output = ended(shared.master)
    assert status == 1, output
    assert "on another machine" in output
    assert server.received == []
    assert {row["outcome"] for row in read(tmp_path / "samples").rows} == {"unsent"}


def test_what_cannot_be_followed_is_told_once_and_not_by_each_worker(locust: Start, tmp_path: Path) -> None:
    """With status 2, before anything is sent."""
    port = str(free_port())
    with load_server() as server:
        wrong = [*schedule(server, tmp_path / "samples", 1), "--rate", "-1"]
        status, output = ended(locust(*wrong, "--processes", "2", "--master-bind-port", port, "--master-port", port))
    assert (status, output.count("--rate -1.0")) == (2, 1), output
    assert "Traceback" not in output
    assert server.received == []
