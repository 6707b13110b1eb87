"""The sender against servers that misbehave: one sample for each request, and never a second copy on the wire."""

import contextlib
import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import gevent
import psutil
import pytest
from gevent import socket as gsocket

from loadtests import sender as sender_module
from loadtests.recorder import Sample
from loadtests.sender import Connections, Intended, Sender
from loadtests.target import permitted_target
from loadtests.users import Request
from tests.loadserver import ACCEPTED, Answer, LoadServer, Received, free_port, load_server, status
from tests.support import until

POST = Request("POST", "/action", tasks=1, body=b"{}")
GET = Request("GET", "/ping/loop", tasks=0)


class Sent:
    """A sender, what it was given and what it recorded."""

    def __init__(self, host: str, in_flight: int = 100, timeout_s: float = 5.0) -> None:
        self.samples: list[Sample] = []
        self.intended: list[Intended] = []
        self.sender = Sender(permitted_target(host), self._take, in_flight, timeout_s)

    def _take(self, sample: Sample, _length: int) -> None:
        self.samples.append(sample)

    def send(self, request: Request = POST) -> Intended:
        """Send one request and go on."""
        intended = Intended(len(self.intended), "window", False, request, uuid4(), time.monotonic_ns())
        self.intended.append(intended)
        self.sender.send(intended)
        return intended

    def one(self, request: Request = POST) -> Sample:
        """Send one request, wait for its end and return its sample."""
        self.send(request)
        self.sender.drain()
        return self.samples[-1]

    def assert_one_sample_each(self) -> None:
        """Fail unless each intended request has exactly one sample."""
        assert sorted(s.request_id for s in self.samples) == sorted(str(i.request_id) for i in self.intended)


def assert_never_twice(server: LoadServer) -> None:
    """Fail if any request reached the server more than once."""
    ids = [request.request_id for request in server.received]
    assert len(ids) == len(set(ids))


def open_in(server: LoadServer) -> list[str]:
    """Return the states of the connections that a server in this process has open."""
    ours = psutil.Process().net_connections("tcp")
    return [one.status for one in ours if one.laddr.port == server.port and one.status != psutil.CONN_LISTEN]


def by_path(request: Received) -> Answer:
    """Answer as the path says."""
    answers: dict[str, Answer] = {
        "/silence": "silence",
        "/close": "close",
        "/reset": "reset",
        "/half": "half",
        "/nonsense": b"NO HTTP\r\n\r\n",
        "/404": status(404),
        "/503": status(503),
        "/503-own": status(503, "Retry-After: 1"),
        "/504": status(504),
    }
    return answers.get(request.path, ACCEPTED)


@pytest.fixture
def server() -> Iterator[LoadServer]:
    """A server that answers as the path says."""
    with load_server(by_path) as running:
        yield running


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("path", "status_code", "outcome", "error"),
    [
        ("/fine", 202, "acknowledged", None),
        ("/silence", None, "indeterminate", "timed out"),
        ("/close", None, "indeterminate", "connection closed without an answer"),
        ("/reset", None, "indeterminate", "connection closed without an answer"),
        ("/half", None, "indeterminate", "answer broken off or malformed"),
        ("/nonsense", None, "indeterminate", "answer broken off or malformed"),
        ("/404", 404, "refused", "HTTP 404"),
        ("/503", 503, "indeterminate", "HTTP 503"),
        ("/503-own", 503, "refused", "HTTP 503"),
        ("/504", 504, "indeterminate", "HTTP 504"),
    ],
)
def test_each_end_of_a_request_is_one_sample_that_says_so(
    server: LoadServer, method: str, path: str, status_code: int | None, outcome: str, error: str | None
) -> None:
    """Each end of a request is one sample that says so."""
    sent = Sent(server.host, timeout_s=0.3)
    sample = sent.one(Request("POST" if method == "POST" else "GET", path, tasks=1))
    sent.assert_one_sample_each()
    assert (sample.route, sample.status, sample.outcome, sample.error) == (
        f"{method} {path}",
        status_code,
        outcome,
        error,
    )
    assert sample.sent_ns is not None
    assert sample.ended_ns is not None
    assert sample.intended_ns <= sample.sent_ns <= sample.ended_ns
    assert len(server.received) == 1
    sent.sender.stop()


def test_a_server_that_does_not_listen_has_refused() -> None:
    """A server that does not listen has refused."""
    sample = Sent(f"http://127.0.0.1:{free_port()}").one()
    assert (sample.outcome, sample.error) == ("refused", "connection refused")


def test_localhost_is_tried_at_each_of_its_addresses(server: LoadServer) -> None:
    """Localhost is tried at each of its addresses."""
    sent = Sent(f"http://localhost:{server.port}")
    assert sent.one().outcome == "acknowledged"
    sent.sender.stop()


@pytest.mark.parametrize("request_", [GET, POST], ids=["GET", "POST"])
def test_a_request_that_meets_the_end_of_a_reused_connection_is_not_resent(request_: Request) -> None:
    """A request that meets the end of a reused connection is not resent."""
    with load_server(lambda request: ACCEPTED if request.nth % 2 else "close") as server:
        sent = Sent(server.host)
        outcomes = [sent.one(request_).outcome for _ in range(20)]
        sent.sender.stop()
    assert outcomes == ["acknowledged", "indeterminate"] * 10
    assert len(server.received) == 20
    assert_never_twice(server)


def test_a_connection_that_the_server_has_closed_is_not_used_again() -> None:
    """A connection that the server has closed is not used again."""
    with load_server(lambda _: "answer-and-close") as server:
        sent = Sent(server.host)
        for _ in range(10):
            assert sent.one(GET).outcome == "acknowledged"
            gevent.sleep(0.02)
        sent.sender.stop()
    assert server.connections == 10


def test_connections_are_reused_until_they_have_been_idle_for_long(
    server: LoadServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections are reused until they have been idle for long."""
    monkeypatch.setattr(sender_module, "IDLE_LIMIT_S", 0.1)
    sent = Sent(server.host)
    for _ in range(5):
        sent.one()
    assert server.connections == 1
    gevent.sleep(0.15)
    sent.one()
    assert server.connections == 2
    sent.sender.stop()


def test_idle_connections_are_closed_and_do_not_pile_up(server: LoadServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle connections are closed and do not pile up."""
    monkeypatch.setattr(sender_module, "IDLE_LIMIT_S", 0.05)
    connections = Connections(permitted_target(server.host))
    taken: list[gsocket.socket] = [connections.take() for _ in range(5)]
    for sock in taken[:4]:
        connections.give_back(sock)
    gevent.sleep(0.1)
    connections.give_back(taken[4])
    assert [sock.fileno() >= 0 for sock in taken] == [False] * 4 + [True]
    connections.close()


def test_requests_over_the_cap_are_unsent_and_leave_nothing_on_the_wire(server: LoadServer) -> None:
    """Requests over the cap are unsent and leave nothing on the wire."""
    sent = Sent(server.host, in_flight=3, timeout_s=0.3)
    for _ in range(5):
        sent.send(Request("POST", "/silence", tasks=1))
    sent.sender.drain()
    sent.assert_one_sample_each()
    unsent = [sample for sample in sent.samples if sample.outcome == "unsent"]
    assert [(sample.seq, sample.sent_ns, sample.error) for sample in unsent] == [
        (3, None, "in-flight cap reached"),
        (4, None, "in-flight cap reached"),
    ]
    assert len(server.received) == 3
    assert sent.sender.max_in_flight == 3


def test_stopping_leaves_one_sample_for_what_was_in_flight_and_for_what_had_not_left(server: LoadServer) -> None:
    """Stopping leaves one sample for what was in flight and for what had not left."""
    sent = Sent(server.host)
    on_the_wire = sent.send(Request("POST", "/silence", tasks=1))
    deadline = time.monotonic() + 5
    while not server.received and time.monotonic() < deadline:
        gevent.sleep(0.005)
    not_started = sent.send()
    sent.sender.stop()
    sent.assert_one_sample_each()
    outcomes = {sample.seq: (sample.outcome, sample.ended_ns) for sample in sent.samples}
    assert outcomes == {on_the_wire.seq: ("indeterminate", None), not_started.seq: ("unsent", None)}
    assert len(server.received) == 1


def test_out_of_sockets_is_the_generators_own_fault(server: LoadServer) -> None:
    """Out of sockets is the generators own fault."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    sent = Sent(server.host)
    sent.one()
    sent.sender.stop()
    gc.collect()
    assert until(lambda: not open_in(server))  # no end of a connection is closed later, and makes room
    highest = max(int(name.name) for name in Path("/dev/fd").iterdir())
    holders: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                holders.append(os.open(os.devnull, os.O_RDONLY))
        sample = sent.one()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for holder in holders:
            os.close(holder)
    assert (sample.outcome, sample.sent_ns) == ("unsent", None)
