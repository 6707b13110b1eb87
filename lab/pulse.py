"""The pulse: whether the servers that all contenders share still answer, asked twice a second beside a block."""

import os
import select
import smtplib
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import urlsplit

import psycopg

from lab.priority import step_back
from lab.stacks.servers import CONNECT_WITHIN_S
from lab.stacks.supervisor import StackError

EVERY_S = 0.5
MAIL_WITHIN_S = 5  # the kernel keeps this time, so the lab's own waiting is not in it
AWAY = (OSError, psycopg.Error, smtplib.SMTPException)
LAST_DATA_RECEIVED = struct.Struct("=52xI")  # tcpi_last_data_recv in Linux's struct tcp_info, ms ago


class Asked(Protocol):
    """A connection on which one question at a time is asked."""

    def fileno(self) -> int:
        """Return the file descriptor on which the answer comes."""

    def ask(self) -> None:
        """Send a question, and do not wait."""

    def take(self) -> None:
        """Take the answer, which has come."""

    def close(self) -> None:
        """Hang up."""


class Database:
    """PostgreSQL: is one still one? One connection for the whole block, so that asking costs next to nothing."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True, connect_timeout=CONNECT_WITHIN_S)
        self.fileno, self.close = self._connection.fileno, self._connection.close

    def ask(self) -> None:
        """Send the query."""
        self._connection.pgconn.send_query(b"SELECT 1")

    def take(self) -> None:
        """Read the result to its end. Raises psycopg.Error where the connection is gone."""
        while (result := self._connection.pgconn.get_result()) is not None:
            if result.status != psycopg.pq.ExecStatus.TUPLES_OK:
                raise psycopg.OperationalError("no answer but an error")


class Mail:
    """The mail sink: a command that does nothing."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._client = smtplib.SMTP(address.hostname or "", address.port or 25, timeout=MAIL_WITHIN_S)
        assert self._client.sock is not None
        self._socket = self._client.sock
        self.fileno, self.close = self._socket.fileno, self._client.close

    def ask(self) -> None:
        """Send the command."""
        self._socket.sendall(b"NOOP\r\n")

    def take(self) -> None:
        """Read the reply. Raises OSError where the connection is gone."""
        if not self._socket.recv(4096):
            raise ConnectionResetError


KINDS: dict[str, Callable[[str], Asked]] = {"postgres": Database, "mail": Mail}


class Pulse:
    """Asks until it is left. ``urls`` are those of the servers, by name. Raises StackError where one does not answer.

    Whether an answer has come, and when, is looked up where the system keeps it: that the lab itself was kept waiting
    makes no server silent, nor lets it overlook that one was.
    """

    def __init__(self, urls: Mapping[str, str]) -> None:
        self._urls = urls
        self._asked: dict[str, Asked] = {}
        self._since: dict[str, float] = {}  # when the question was asked that has no answer yet
        self._seen: dict[str, float] = {}
        self._end = threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pulse")

    def __enter__(self) -> Self:
        for name, url in self._urls.items():
            try:
                self._asked[name] = KINDS[name](url)
            except AWAY as error:
                self._hang_up()
                raise StackError(f"{name} does not answer: {str(error).strip() or type(error).__name__}.") from error
        self._asking = self._thread.submit(self._run)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.shutdown()
        self._hang_up()
        self._asking.result()  # raises what has ended it, if anything has

    def _hang_up(self) -> None:
        for server in self._asked.values():
            server.close()

    def seen(self) -> dict[str, float]:
        """Return for how many seconds a server left a question without an answer, at most; and 1 for who hung up.

        By ``<name>_silent_s`` and ``<name>_hung_up``.
        """
        return dict(self._seen)

    def _run(self) -> None:
        step_back()
        self._go_round()
        while not self._end.wait(EVERY_S):
            self._go_round()
        self._go_round()

    def _go_round(self) -> None:
        for name in list(self._asked):
            try:
                self._listen_and_ask(name)
            except AWAY:
                self._seen[f"{name}_hung_up"] = 1.0
                self._asked.pop(name).close()

    def _listen_and_ask(self, name: str) -> None:
        server = self._asked[name]
        if name in self._since:
            now, answered = time.monotonic(), bool(select.select([server], [], [], 0)[0])
            silent_s = now - self._since[name] - (since_last_data_s(server) if answered else 0.0)
            self._seen[f"{name}_silent_s"] = max(self._seen.get(f"{name}_silent_s", 0.0), silent_s)
            if not answered:
                return
            server.take()
        server.ask()
        self._since[name] = time.monotonic()


def since_last_data_s(connection: Asked) -> float:
    """Return for how many seconds nothing has come on a TCP connection, as the kernel knows it."""
    with socket.socket(fileno=os.dup(connection.fileno())) as tcp:
        info = tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, LAST_DATA_RECEIVED.size)
    return float(LAST_DATA_RECEIVED.unpack(info)[0]) / 1000
