"""Locust with its web UI and several workers: the master's live figures are those of all workers together."""

import json
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.loadserver import free_port, load_server
from tests.support import until

PROJECT = Path(__file__).parent.parent.parent
LOCUST = [sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py"]
WORKERS = 3


class Distributed:
    """A master with its web UI, and its workers."""

    def __init__(self, servers: dict[str, str]) -> None:
        self._started: list[subprocess.Popen[bytes]] = []
        self._web, port = free_port(), str(free_port())
        self.log = b""
        web = ["--web-host", "127.0.0.1", "--web-port", str(self._web), "--scenario", "action"]
        contenders = [part for name, url in servers.items() for part in ("--contender-url", f"{name}={url}")]
        self._start("--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", port, *web, *contenders)
        self._port = port
        self.workers = [self.add_worker() for _ in range(WORKERS)]

    def add_worker(self) -> "subprocess.Popen[bytes]":
        """Start one more worker."""
        return self._start("--worker", "--master-host", "127.0.0.1", "--master-port", self._port)

    def _start(self, *options: str) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen([*LOCUST, *options], cwd=PROJECT, stdout=subprocess.DEVNULL)
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

    def states(self) -> list[str]:
        """Return how the workers are."""
        return sorted(worker["state"] for worker in self.live().get("workers", {}).values())

    def swarm(self, users: int, **options: object) -> None:
        """Start the load of both contenders, and wait until the figures are of this run."""
        form = {"user_count": users, "spawn_rate": 100, "contender": "both", **options}
        self._ask("/swarm", urllib.parse.urlencode(form).encode())
        assert until(lambda: self.live()["state"] == "running", 20)

    def stop(self) -> dict[str, Any]:
        """Stop the load and return the figures once the run is over."""
        self._ask("/stop")
        assert until(lambda: self.live()["state"] == "stopped", 20)
        return self.live()

    def _ask(self, path: str, body: bytes = b"") -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._web}{path}", data=body, timeout=20) as answer:
            assert json.load(answer)["success"], path

    def end(self) -> None:
        """Kill what still runs."""
        for process in self._started:
            process.kill()
            process.wait()


@pytest.fixture
def distributed() -> Iterator[tuple[Distributed, Any]]:
    """Run two servers, a master and its workers, all of them ready."""
    with load_server() as one, load_server() as other:
        locust = Distributed({"one": one.host, "other": other.host})
        try:
            assert until(lambda: locust.states() == ["ready"] * WORKERS, 40), locust.live()
            yield locust, (one, other)
        finally:
            locust.end()


def test_the_master_counts_what_the_servers_have_received(distributed: tuple[Distributed, Any]) -> None:
    """Nothing is missing and nothing is counted twice; a second run begins at 0."""
    locust, servers = distributed
    before = [0, 0]
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
