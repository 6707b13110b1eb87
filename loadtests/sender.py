"""The open-loop sender: each request leaves at its intended time, is never resent, and ends as one sample."""

import errno
import logging
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

import gevent
from gevent import socket as gsocket
from gevent.pool import Pool
from geventhttpclient.response import HTTPConnectionClosed, HTTPParseError, HTTPSocketResponse

from loadtests.recorder import Outcome, Phase, Sample
from loadtests.target import Target
from loadtests.users import Request

log = logging.getLogger(__name__)

TIMEOUT_S = 10.0
# Uvicorn closes a connection after 5 s without a request: one that has been idle for 2 s is not used again, so that
# a request never meets that close.
IDLE_LIMIT_S = 2.0
# The generator's own shortage: the request has not left this machine.
LOCAL_SHORTAGE = {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM}


@dataclass(frozen=True, slots=True)
class Intended:
    """A request that is to be sent at ``intended_ns`` of the monotonic clock."""

    seq: int
    phase: Phase
    bystander: bool
    request: Request
    request_id: UUID
    intended_ns: int


class Answer(NamedTuple):
    """How an exchange ended; ``length`` is the body's, in bytes."""

    outcome: Outcome
    status: int | None = None
    error: str | None = None
    length: int = 0


Report = Callable[[Sample, int], None]


def outcome_of(status: int, retry_after: bool) -> Outcome:
    """Return what a status says about the work asked for.

    2xx: acknowledged. 4xx, and 503 with Retry-After (the app's own): refused, nothing was handed over. Any other
    leaves it open.
    """
    if 200 <= status < 300:
        return "acknowledged"
    if 400 <= status < 500 or (status == 503 and retry_after):
        return "refused"
    return "indeterminate"


def wire(request: Request, request_id: UUID, target: Target) -> bytes:
    """Return a request as the bytes of one HTTP/1.1 message."""
    lines = [
        f"{request.method} {request.path} HTTP/1.1",
        f"Host: {target.authority}",
        "User-Agent: loadtests",
        f"X-Request-ID: {request_id}",
    ]
    if request.method == "POST":
        lines += [f"Content-Type: {request.content_type}", f"Content-Length: {len(request.body)}"]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + request.body


class Connections:
    """Keep-alive connections to one server, the last used first."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._idle: deque[tuple[float, gsocket.socket]] = deque()

    def take(self) -> gsocket.socket:
        """Return an open connection, a new one where none is fit for use. Raises OSError."""
        while self._idle:
            idle_since_s, sock = self._idle.pop()
            if time.monotonic() - idle_since_s < IDLE_LIMIT_S and _is_quiet(sock):
                return sock
            sock.close()
        return self._connect()

    def give_back(self, sock: gsocket.socket) -> None:
        """Keep a connection whose answer has been read to its end, and close those that were idle for too long."""
        now_s = time.monotonic()
        self._idle.append((now_s, sock))
        while now_s - self._idle[0][0] > IDLE_LIMIT_S:
            self._idle.popleft()[1].close()

    def close(self) -> None:
        """Close all idle connections."""
        while self._idle:
            self._idle.pop()[1].close()

    def _connect(self) -> gsocket.socket:
        *others, last = self._target.addresses
        for address in others:
            try:
                return _open(*address)
            except ConnectionRefusedError:
                continue
        return _open(*last)


def _open(family: socket.AddressFamily, address: tuple[str, int]) -> gsocket.socket:
    sock = gsocket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _is_quiet(sock: gsocket.socket) -> bool:
    """Say whether nothing has come on an idle connection: anything there is the server's goodbye."""
    sock.settimeout(0.0)
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        sock.settimeout(None)
    return False


class Sender:
    """Sends requests without ever waiting for them; each one becomes exactly one sample.

    ``record`` takes the sample and the length of the answer's body in bytes. There are no retries: at most one
    copy of a request leaves this machine. At most ``in_flight_cap`` are under way at once; one more is unsent.
    ``contender`` is the server's name in the samples.
    """

    def __init__(
        self,
        target: Target,
        record: Report,
        in_flight_cap: int,
        timeout_s: float = TIMEOUT_S,
        contender: str | None = None,
    ) -> None:
        self._contender = contender
        self._target = target
        self._connections = Connections(target)
        self._record = record
        self._pool = Pool(in_flight_cap)
        self._waiting: dict[int, Intended] = {}
        self._timeout_s = timeout_s
        self.max_in_flight = 0

    def send(self, intended: Intended) -> None:
        """Start one request now and return at once."""
        if self._pool.free_count() == 0:
            self.give_up(intended, "in-flight cap reached")
            return
        self._waiting[intended.seq] = intended
        self._pool.spawn(self._exchange, intended)
        self.max_in_flight = max(self.max_in_flight, len(self._pool))

    def give_up(self, intended: Intended, why: str) -> None:
        """Record a request that is not going to be sent."""
        self._finish(intended, None, None, Answer("unsent", error=why))

    def drain(self, timeout_s: float | None = None) -> None:
        """Wait until nothing is in flight, or for ``timeout_s``."""
        self._pool.join(timeout=timeout_s)

    def stop(self) -> None:
        """End at once: what is in flight becomes indeterminate, what had not started is unsent."""
        self._pool.kill()
        for intended in list(self._waiting.values()):
            self.give_up(intended, "stopped before it was sent")
        self._connections.close()

    def _exchange(self, intended: Intended) -> None:
        del self._waiting[intended.seq]
        sent_ns = time.monotonic_ns()
        try:
            answer = self._attempt(intended)
        except gevent.GreenletExit:
            self._finish(intended, sent_ns, None, Answer("indeterminate", error="stopped while in flight"))
            return
        ended_ns = time.monotonic_ns()
        try:
            gevent.sleep(0)  # answers that came in the same moment get their time before any of them is written down
        finally:
            if answer.outcome == "unsent":
                self._finish(intended, None, None, answer)
            else:
                self._finish(intended, sent_ns, ended_ns, answer)

    def _attempt(self, intended: Intended) -> Answer:
        try:
            with gevent.Timeout(self._timeout_s):
                return self._transact(intended)
        except gevent.Timeout:
            return Answer("indeterminate", error="timed out")
        except ConnectionRefusedError:
            return Answer("refused", error="connection refused")
        except HTTPConnectionClosed:
            return Answer("indeterminate", error="connection closed without an answer")
        except HTTPParseError:
            return Answer("indeterminate", error="answer broken off or malformed")
        except OSError as error:
            outcome: Outcome = "unsent" if error.errno in LOCAL_SHORTAGE else "indeterminate"
            return Answer(outcome, error=error.strerror or str(error))
        except Exception as error:  # no row may be missing, not even by a defect of this file
            log.exception("A request ended as none should.")
            return Answer("indeterminate", error=repr(error))

    def _transact(self, intended: Intended) -> Answer:
        """Send one request on one connection and read its answer whole."""
        message = wire(intended.request, intended.request_id, self._target)
        sock = self._connections.take()
        try:
            sock.sendall(message)
            response = HTTPSocketResponse(sock, method=intended.request.method)
            length = len(response.read())
        except BaseException:
            sock.close()
            raise
        if sock.fileno() >= 0:  # the response has closed it where the server asked for that
            self._connections.give_back(sock)
        status = response.status_code
        outcome = outcome_of(status, "retry-after" in response)
        return Answer(outcome, status, None if outcome == "acknowledged" else f"HTTP {status}", length)

    def _finish(self, intended: Intended, sent_ns: int | None, ended_ns: int | None, answer: Answer) -> None:
        self._waiting.pop(intended.seq, None)
        self._record(sample_of(intended, self._contender, sent_ns, ended_ns, answer), answer.length)


def sample_of(
    intended: Intended, contender: str | None, sent_ns: int | None, ended_ns: int | None, answer: Answer
) -> Sample:
    """Return the row of a request that ended; times as in Sample."""
    return Sample(
        seq=intended.seq,
        stream="bystander" if intended.bystander else "load",
        phase=intended.phase,
        route=f"{intended.request.method} {intended.request.path}",
        request_id=str(intended.request_id),
        tasks=intended.request.tasks,
        intended_ns=intended.intended_ns,
        sent_ns=sent_ns,
        ended_ns=ended_ns,
        status=answer.status,
        outcome=answer.outcome,
        error=answer.error,
        contender=contender,
    )
