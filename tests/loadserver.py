"""A server for the load to meet: it notes every request that reaches it, and answers or misbehaves as it is told."""

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}"

Answer = bytes | Literal["silence", "close", "reset", "answer-and-close", "half"]


@dataclass(frozen=True)
class Received:
    """A request as it came, and when by the monotonic clock; ``nth`` counts the requests of its connection from 1."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    nth: int
    at_ns: int

    @property
    def request_id(self) -> str:
        """The id in its header."""
        return self.headers["x-request-id"]


@dataclass
class LoadServer:
    """What a running server has seen."""

    port: int
    received: list[Received] = field(default_factory=list)
    connections: int = 0

    @property
    def host(self) -> str:
        """What to give as ``--host``."""
        return f"http://127.0.0.1:{self.port}"


def status(code: int, *headers: str) -> bytes:
    """Return an answer of a status, with an empty body."""
    return "\r\n".join([f"HTTP/1.1 {code} X", "Content-Length: 0", *headers, "", ""]).encode()


class _Connection(asyncio.Protocol):
    def __init__(self, server: LoadServer, answer: Callable[[Received], Answer], delay_s: float) -> None:
        self._server = server
        self._answer = answer
        self._delay_s = delay_s
        self._data = b""
        self._nth = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.connections += 1

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (request := self._next_request()) is not None:
            self._server.received.append(request)
            asyncio.get_running_loop().call_later(self._delay_s, self._reply, self._answer(request))

    def _next_request(self) -> Received | None:
        head, found, rest = self._data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = int(headers.get("content-length", 0))
        if not found or len(rest) < length:
            return None
        self._data = rest[length:]
        self._nth += 1
        method, path, _ = first.split(" ")
        return Received(method, path, headers, rest[:length], self._nth, time.monotonic_ns())

    def _reply(self, answer: Answer) -> None:
        match answer:
            case bytes():
                self._transport.write(answer)
            case "half":
                self._transport.write(ACCEPTED[:-1])
                self._transport.close()
            case "answer-and-close":
                self._transport.write(ACCEPTED)
                self._transport.close()
            case "close":
                self._transport.close()
            case "reset":
                sock = self._transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._transport.abort()


@contextlib.contextmanager
def load_server(
    answer: Callable[[Received], Answer] = lambda _: ACCEPTED, delay_s: float = 0.0
) -> Iterator[LoadServer]:
    """Run a server on a free loopback port, in a thread, until the end of the ``with``; it answers after a delay."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    server = LoadServer(listening.getsockname()[1])
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    running = asyncio.run_coroutine_threadsafe(
        loop.create_server(lambda: _Connection(server, answer, delay_s), sock=listening),
        loop,
    ).result(10)
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(_shut(running), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _shut(running: asyncio.Server) -> None:
    running.close()
    if hasattr(running, "abort_clients"):
        running.abort_clients()
    await asyncio.sleep(0)


def free_port() -> int:
    """Return a loopback port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port
