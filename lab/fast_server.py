"""A server that is not the limit: it answers every request at once, some ten thousands a second on one core.

``python -m lab.fast_server PORT`` serves on 127.0.0.1, until it is ended.
"""

import asyncio
import sys
from typing import cast

import uvloop

END = b"\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Connection(asyncio.Protocol):
    """One keep-alive connection; a request has no body, and comes when the one before has its answer."""

    def __init__(self) -> None:
        self._begun = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's own is none by its class

    def data_received(self, data: bytes) -> None:
        """Take in a part of a request, and answer it once it is whole."""
        if self._begun:
            data = self._begun + data
        if data.endswith(END):
            self._begun = b""
            self._transport.write(OK)
        else:
            self._begun = data


async def serve(port: int) -> None:
    """Serve for ever."""
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
