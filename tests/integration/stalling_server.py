"""A server that stalls for 1 s in every 10, as one does whose requests all wait for the same lock.

``python stalling_server.py PORT FILE``: answers at once but while it stalls; what comes then is answered at the end
of the stall. Appends to FILE, one line each, when a stall began and ended, in nanoseconds of the monotonic clock.
"""

import asyncio
import sys
import time
from pathlib import Path

ANSWER = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}"


class Answering(asyncio.Protocol):
    """Answers each message that comes; the requests of this test come in one piece."""

    waiting: list[asyncio.Transport] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:  # noqa: ARG002 - whatever was asked
        """Answer, or let it wait."""
        if self.waiting is None:
            self._transport.write(ANSWER)
        else:
            self.waiting.append(self._transport)


async def stall(length_s: float) -> tuple[int, int]:
    """Let everything wait, then answer it in the order of arrival; return when that began and ended, in ns."""
    Answering.waiting, began_ns = [], time.monotonic_ns()
    await asyncio.sleep(length_s)
    waiting, Answering.waiting, ended_ns = Answering.waiting, None, time.monotonic_ns()
    for transport in waiting:
        transport.write(ANSWER)
    return began_ns, ended_ns


async def serve(port: int, stalls: Path) -> None:
    """Serve for ever, and stall in the sixth second of every ten."""
    await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", port, backlog=1024)
    while True:
        await asyncio.sleep(5)
        began_ns, ended_ns = await stall(1)
        with stalls.open("a") as file:
            file.write(f"{began_ns} {ended_ns}\n")
        await asyncio.sleep(4)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
