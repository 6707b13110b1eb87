"""Servers whose latency is known exactly: what a request gets, and when, follows from its id and the clock alone.

``python -m lab.known_servers NAME PORT`` serves one of them on 127.0.0.1, until it is ended.
"""

import asyncio
import os
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple
from uuid import UUID

from lab import awake
from lab.priority import step_forward

STALL_EVERY_S, STALL_FROM_S, STALL_UNTIL_S = 10.0, 5.0, 6.0
# An event loop's timer rounds up to whole milliseconds: the last stretch before an answer is due is spent polling.
POLL_S = 0.002

REQUEST = re.compile(rb"\AGET (\S+) .*?\r\n\r\n", re.DOTALL)
REQUEST_ID = re.compile(rb"\r\nx-request-id: *(\S+)", re.IGNORECASE)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
LINGER_0 = struct.pack("ii", 1, 0)  # closing then sends a reset


class Fate(NamedTuple):
    """What a request gets, and how long after its arrival."""

    outcome: Literal["acknowledged", "refused", "indeterminate"]
    after_s: float


@dataclass(frozen=True)
class KnownServer:
    """A server; ``fate`` is a function of a number in [0, 1) that the request's id stands for, and of its arrival.

    The arrival is in seconds of the monotonic clock.
    """

    title: str
    fate: Callable[[float, float], Fate]


def stall(_drawn: float, arrived_s: float) -> Fate:
    """Let whatever comes in the sixth second of every ten wait for its end."""
    in_period_s = arrived_s % STALL_EVERY_S
    stalled = STALL_FROM_S <= in_period_s < STALL_UNTIL_S
    return Fate("acknowledged", STALL_UNTIL_S - in_period_s if stalled else 0.0)


def two_modes(drawn: float, _arrived_s: float) -> Fate:
    """Answer most after 5 ms, and one in ten after 200 ms."""
    return Fate("acknowledged", 0.005 if drawn < 0.9 else 0.2)


def heavy_tail(drawn: float, _arrived_s: float) -> Fate:
    """Answer after a time that is distributed as Pareto has it: at least 2 ms, exponent 1, no more than 5 s."""
    return Fate("acknowledged", min(5.0, 0.002 / (1 - drawn)))


def refusing(drawn: float, _arrived_s: float) -> Fate:
    """Refuse three in a hundred at once."""
    return Fate("refused", 0.0) if drawn < 0.03 else Fate("acknowledged", 0.005)


def resetting(drawn: float, _arrived_s: float) -> Fate:
    """Reset the connections of three in a hundred."""
    return Fate("indeterminate", 0.0) if drawn < 0.03 else Fate("acknowledged", 0.005)


SERVERS = {
    "constant": KnownServer("20 ms, always", lambda _drawn, _arrived_s: Fate("acknowledged", 0.02)),
    "stall": KnownServer("at once, but for a stall of 1 s in every 10 s", stall),
    "two-modes": KnownServer("5 ms, and 200 ms for one in ten", two_modes),
    "heavy-tail": KnownServer("Pareto: 2 ms and more, exponent 1, at most 5 s", heavy_tail),
    "refusing": KnownServer("5 ms, and a refusal for 3 %", refusing),
    "resetting": KnownServer("5 ms, and a reset connection for 3 %", resetting),
}


def fate(name: str, request_id: UUID, arrived_s: float) -> Fate:
    """Return what the server of this name does with a request that arrives then."""
    return SERVERS[name].fate((request_id.int & 0xFFFFFFFF) / 2**32, arrived_s)


class Connection(asyncio.Protocol):
    """One keep-alive connection; a request is answered when it is due."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take in a part of a request, and see to it once it is whole."""
        self._data += data
        while request := REQUEST.match(self._data):
            self._data = self._data[request.end() :]
            self._handle(request)

    def _handle(self, request: re.Match[bytes]) -> None:
        arrived_s = time.monotonic()
        given = REQUEST_ID.search(request[0])
        if given is None:  # only the lab's question whether the server is up has no id
            self._transport.write(OK)
            return
        found = fate(self._name, UUID(given[1].decode()), arrived_s)
        self._answer_at(arrived_s + found.after_s, found)

    def _answer_at(self, due_s: float, found: Fate) -> None:
        loop, left_s = asyncio.get_running_loop(), due_s - time.monotonic()
        if left_s > POLL_S:
            loop.call_later(left_s - POLL_S, self._answer_at, due_s, found)
        elif left_s > 0:
            loop.call_soon(self._answer_at, due_s, found)
        elif found.outcome == "indeterminate":
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
            self._transport.abort()
        else:
            self._transport.write(OK if found.outcome == "acknowledged" else REFUSAL)


async def serve(name: str, port: int) -> None:
    """Serve for ever."""
    server = await asyncio.get_running_loop().create_server(lambda: Connection(name), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    if awake.is_due():
        for cpu in os.sched_getaffinity(0):
            subprocess.Popen(awake.command(cpu, os.getpid()))  # which ends when this process is gone
    step_forward()
    asyncio.run(serve(sys.argv[1], int(sys.argv[2])))
