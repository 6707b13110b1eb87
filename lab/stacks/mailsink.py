"""The mail sink: an SMTP server that keeps one JSON line per mail it has accepted, and delivers none.

A line is ``{task_id, t_ns, to, subject}``: the header X-Task-ID or null, when the mail was accepted (monotonic
ns), the recipients of the envelope, and the decoded subject.
"""

import asyncio
import json
import os
import signal
import sys
import time
from email import policy
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP


class Sink:
    """The handler that aiosmtpd calls for each mail."""

    def __init__(self, mails: Path) -> None:
        self._fd = os.open(mails, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._headers = BytesHeaderParser(policy=policy.default)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802, ARG002
        """Append the mail's line with a single write, then accept the mail."""
        headers = self._headers.parsebytes(envelope.content)
        line = {
            "task_id": headers["X-Task-ID"],
            "t_ns": time.monotonic_ns(),
            "to": envelope.rcpt_tos,
            "subject": headers["Subject"],
        }
        # What was no text in the mail is half a surrogate pair here, which is no JSON for all readers.
        os.write(self._fd, json.dumps(line, ensure_ascii=False).encode(errors="replace") + b"\n")
        return "250 OK"


async def serve(port: int, mails: Path, host: str = "127.0.0.1") -> None:
    """Accept mail on a port of a host until SIGTERM. Raises OSError where the port or the file cannot be had."""
    loop = asyncio.get_running_loop()
    sink = Sink(mails)
    server = await loop.create_server(lambda: SMTP(sink, enable_SMTPUTF8=True, loop=loop), host, port)
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    server.close()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]))
