"""Locust with its web UI and several workers: the master's live figures are those of all workers together."""

import json
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.loadserver import free_port, load_server
from tests.support import SLOW_TO_LISTEN, until

PROJECT = Path(__file__).parent.parent.parent
LOCUST = [sys.executable, "-m", "locust", "-f"]
LOCUSTFILE = Path("loadtests/locustfile.py")
PATIENT = Path("tests/patient_locustfile.py")
WORKERS = 3


class Distributed:
    """A master with its web UI, and its workers."""

    def __init__(self, servers: dict[str, str], *options: str) -> None:
        self._started: list[subprocess.Popen[bytes]] = []
        self._web, port = free_port(), str(free_port())
        self.log = b""
        web = ["--web-host", "127.0.0.1", "--web-port", str(self._web), "--scenario", "action"]
        contenders = [part for name, url in servers.items() for part in ("--contender-url", f"{name}={url}")]
        bind = ["--master-bind-host", "127.0.0.1", "--master-bind-port", port]
        self._start("--master", *bind, *web, *contenders, *options, file=PATIENT)
        self._port = port
        self.workers = [self.add_worker() for _ in range(WORKERS)]

    def add_worker(self, file: Path = LOCUSTFILE) -> "subprocess.Popen[bytes]":
        """Start one more worker."""
        return self._start("--worker", "--master-host", "127.0.0.1", "--master-port", self._port, file=file)

    def _start(self, *options: str, file: Path = LOCUSTFILE) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen([*LOCUST, str(file), *options], cwd=PROJECT, stdout=subprocess.DEVNULL)
        self._started.append(process)
        return process

    def live(self) -> dict[str, Any]:
        """Return the master's live figures; empty while it does not answer yet."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._web}/comparison/state", timeout=5) as answer:
                snapshot: dict[str, Any] = json.load(answer)["load"]
                return snapshot
        except OSError:
            return {}

    def exceptions(self) -> list[str]:
        """Return what users died of, as Locust tells."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._web}/exceptions", timeout=5) as answer:
            return [one["msg"] for one in json.load(answer)["exceptions"]]

    def states(self) -> list[str]:
        """Return how the workers are."""
        return sorted(worker["state"] for worker in self.live().get("workers", {}).values())

    def swarm(self, users: int, **options: object) -> None:
        """Start the load of both contenders, and wait until the figures are of this run."""
        assert self.ask("/swarm", user_count=users, spawn_rate=100, contender="both", **options)["success"]
        assert until(lambda: self.live()["state"] == "running", 20)

    def stop(self) -> dict[str, Any]:
        """Stop the load and return the figures once the run is over."""
        assert self.ask("/stop")["success"]
        assert until(lambda: self.live()["state"] == "stopped", 20)
        return self.live()

    def ask(self, path: str, **form: object) -> dict[str, Any]:
        """Send a form to the master and return its answer."""
        body = urllib.parse.urlencode(form).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self._web}{path}", data=body, timeout=20) as answer:
            told: dict[str, Any] = json.load(answer)
            return told

    def end(self) -> None:
        """Kill what still runs."""
        for process in self._started:
            process.kill()
            process.wait()


@contextmanager
def running(*options: str) -> Iterator[tuple[Distributed, Any]]:
    """Run two servers, a master with these options and its workers, all of them ready."""
    with load_server() as one, load_server() as other:
        locust = Distributed({"one": one.host, "other": other.host}, *options)
        try:
            assert until(lambda: locust.states() == ["ready"] * WORKERS, 40), locust.live()
            yield locust, (one, other)
        finally:
            locust.end()


@pytest.fixture
def distributed() -> Iterator[tuple[Distributed, Any]]:
    """Run them without options."""
    with running() as started:
        yield started


def test_the_master_counts_what_the_servers_have_received() -> None:
    """Nothing is missing and nothing is counted twice; a second run begins at 0."""
    before = [0, 0]
    with running("--stop-timeout", "2") as (locust, servers):  # what is in flight at the end is answered
        for _ in range(2):
            locust.swarm(users=12)
            assert until(lambda: all(worker["samples"] >= 20 for worker in locust.live()["workers"].values()), 30)
            snapshot = locust.stop()
            received = [[r for r in server.received if r.path == "/action"] for server in servers]
            for nth, name in enumerate(("one", "other")):
                total = snapshot["contenders"][name]["total"]
                assert total["requests"] == total["acknowledged"] == len(received[nth]) - before[nth]
                assert total["bystander_p50_ms"] > 0
            assert snapshot["rate"] == 12.0
            assert sum(worker["samples"] for worker in snapshot["workers"].values()) >= total["requests"] * 2
            before = [len(one) for one in received]
            assert until(lambda: locust.states() == ["ready"] * WORKERS, 20)


def test_a_killed_worker_is_shown_and_the_others_go_on(distributed: tuple[Distributed, Any]) -> None:
    """Its figures so far stay."""
    locust, _ = distributed
    locust.swarm(users=12)
    assert until(lambda: locust.states() == ["running"] * WORKERS, 20)
    assert until(lambda: all(worker["samples"] > 0 for worker in locust.live()["workers"].values()), 20)
    locust.workers[0].kill()
    assert until(lambda: locust.states() == ["missing", "running", "running"], 20), locust.states()
    then = locust.live()
    assert all(worker["samples"] > 0 for worker in then["workers"].values())
    requests = then["contenders"]["one"]["total"]["requests"]
    assert until(lambda: locust.live()["contenders"]["one"]["total"]["requests"] > requests, 20)
    locust.stop()


def test_whoever_is_left_of_the_workers_sends_bystanders(distributed: tuple[Distributed, Any]) -> None:
    """Of both kinds, in the load that was on when the others were killed."""
    locust, (one, _) = distributed
    locust.swarm(users=12)
    assert until(lambda: locust.states() == ["running"] * WORKERS, 20)
    for worker in locust.workers[1:]:
        worker.kill()
        worker.wait()
    then = len(one.received)
    assert until(lambda: {"/ping/loop", "/ping/thread"} <= {request.path for request in one.received[then:]}, 20)
    locust.stop()


def test_replaced_workers_send_bystanders(distributed: tuple[Distributed, Any]) -> None:
    """Locust never gives the number of a worker that has left to another: not even 0."""
    locust, (one, _) = distributed
    for worker in locust.workers:
        worker.terminate()
        worker.wait(20)
    for _ in range(2):
        locust.add_worker()
    assert until(lambda: locust.states().count("ready") == 2, 40), locust.states()
    locust.swarm(users=12)
    assert until(lambda: {"/ping/loop", "/ping/thread"} <= {request.path for request in one.received}, 20)
    locust.stop()


def test_with_a_worker_that_joins_a_load_all_that_was_asked_for_is_sent(
    distributed: tuple[Distributed, Any], tmp_path: Path
) -> None:
    """It is told to spawn users before it listens: none of them dies, for nobody would send what they do not."""
    locust, _ = distributed
    (tmp_path / "locustfile.py").write_text(SLOW_TO_LISTEN)
    locust.swarm(users=12, arrivals="constant")
    assert until(lambda: all(worker["samples"] > 0 for worker in locust.live()["workers"].values()), 20)
    locust.add_worker(tmp_path / "locustfile.py")
    assert until(lambda: locust.states() == ["running"] * (WORKERS + 1), 40), locust.states()
    joined_s = locust.live()["elapsed_s"]

    def sent_in_a_second_since() -> list[int]:
        """Return how many requests were meant for each second, which were all of one user's in each."""
        series = locust.live()["contenders"]["one"]["series"]
        return [n for t_s, n in zip(series["t_s"], series["acknowledged_per_s"], strict=True) if t_s > joined_s]

    assert until(lambda: 12 in sent_in_a_second_since(), 20), sent_in_a_second_since()
    assert all(worker["samples"] > 0 for worker in locust.live()["workers"].values())
    assert locust.exceptions() == []
    locust.stop()


def test_a_start_without_a_worker_is_refused(distributed: tuple[Distributed, Any]) -> None:
    """Once there is one, it is not."""
    locust, _ = distributed
    for worker in locust.workers:
        worker.terminate()
        worker.wait(20)
    assert until(lambda: set(locust.states()) <= {"missing", "stopped"}, 40), locust.states()
    told = locust.ask("/swarm", user_count=12, spawn_rate=100, contender="both")
    assert (told["success"], "No Locust worker is ready" in told["message"]) == (False, True)
    locust.add_worker()
    assert until(lambda: "ready" in locust.states(), 40), locust.states()
    locust.swarm(users=12)


def test_a_stop_while_users_are_still_spawned_costs_no_worker(distributed: tuple[Distributed, Any]) -> None:
    """Neither in the first load of a worker nor in a later one, whenever in its beginning it comes."""
    locust, _ = distributed
    for delay_s in (0.02, 0.05) * 4:
        assert locust.ask("/swarm", user_count=40, spawn_rate=100, contender="both")["success"]
        time.sleep(delay_s)
        assert locust.ask("/stop")["success"]
        # One that is stopped before it has begun at all leaves the master as it was: ready, where it is the first.
        assert until(lambda: locust.live()["state"] in {"stopped", "ready"}, 20), locust.live()
        assert until(lambda: locust.states() == ["ready"] * WORKERS, 20), locust.states()
    assert [worker.poll() for worker in locust.workers] == [None] * WORKERS
    locust.swarm(users=12)
    assert until(lambda: all(worker["samples"] > 0 for worker in locust.live()["workers"].values()), 20)


def test_a_load_is_ending_until_workers_that_had_not_begun_have_heard_of_its_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its master calls them ready as it did before: a load begun then would be stopped by what they hear first."""
    monkeypatch.setenv("FORGIVEN_HEARTBEATS", "600")
    with running() as (locust, _):
        for worker in locust.workers:
            worker.send_signal(signal.SIGSTOP)
        locust.swarm(users=12)
        assert locust.ask("/stop")["success"]
        assert locust.live()["state"] == "ending"
        assert "still ending" in locust.ask("/swarm", user_count=12, spawn_rate=100, contender="both")["message"]
        for worker in locust.workers:
            worker.send_signal(signal.SIGCONT)
        assert until(lambda: locust.live()["state"] == "stopped", 20)
        locust.swarm(users=12)
        assert until(lambda: all(worker["samples"] > 0 for worker in locust.live()["workers"].values()), 20)


def test_until_every_worker_is_ready_again_no_other_load_begins() -> None:
    """A worker that has stopped hears nothing for as long as `--stop-timeout`: a load begun then would lose it."""
    users = {"user_count": 12, "spawn_rate": 100}
    with running("--stop-timeout", "4") as (locust, _):
        seen_stopped: set[str] = set()

        def each_was_seen_stopped() -> bool:
            """Whether each has been: one may be ready again before the last has stopped."""
            workers = locust.live()["workers"]
            seen_stopped.update(worker for worker, told in workers.items() if told["state"] == "stopped")
            return len(seen_stopped) == WORKERS

        def refused() -> bool:
            told = [locust.ask("/swarm", **users, contender="one"), locust.ask("/swarm", **users)]
            return all(not one["success"] and "still ending" in one["message"] for one in told)

        locust.swarm(users=12)
        assert until(lambda: all(worker["samples"] > 0 for worker in locust.live()["workers"].values()), 20)
        with ThreadPoolExecutor(1) as browser:
            stopped = browser.submit(locust.ask, "/stop")
            assert until(lambda: locust.live()["state"] == "ending")
            assert refused()
            assert until(each_was_seen_stopped)
            assert stopped.result()["success"]
        assert locust.live()["state"] == "ending"
        assert refused()
        assert until(lambda: locust.live()["state"] == "stopped", 30)
        assert until(lambda: locust.states() == ["ready"] * WORKERS)
        locust.swarm(users=12)
        assert until(lambda: all(worker["samples"] > 0 for worker in locust.live()["workers"].values()), 20)
        assert until(lambda: locust.states() == ["running"] * WORKERS)
