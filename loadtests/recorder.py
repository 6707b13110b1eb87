"""Raw samples: one row per intended request, written while the load runs without disturbing it."""

import json
import time
from array import array
from collections.abc import Callable, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

import gevent
from gevent.event import Event

Outcome = Literal["acknowledged", "refused", "indeterminate", "unsent"]
Phase = Literal["warmup", "window"]

FLUSH_EVERY_S = 0.25
LAG_PROBE_S = 0.01

as_line = json.JSONEncoder(separators=(",", ":")).encode


class Sample(NamedTuple):
    """What became of one intended request; times by ``CLOCK_MONOTONIC``, in nanoseconds.

    ``sent_ns`` is None where it was not sent, or where that is not known. ``contender`` is the name of whom it was sent
    to; None where no names were given.
    """

    seq: int
    stream: Literal["load", "bystander"]
    phase: Phase
    route: str
    request_id: str
    tasks: int
    intended_ns: int
    sent_ns: int | None
    ended_ns: int | None
    status: int | None
    outcome: Outcome
    error: str | None
    contender: str | None = None


class Recorder:
    """Writes a header line, one line per sample, and a last line; a file without its last line was cut off.

    Lines are kept in memory for at most ``FLUSH_EVERY_S`` and written by a thread, so that a slow disk does not
    stop the event loop. Without a path it only counts.
    """

    def __init__(self, path: Path | None, on_error: Callable[[OSError], None]) -> None:
        self._file = FileIO(path, "w") if path is not None else None
        self._on_error = on_error
        self._lines: list[str] = []
        self._ending = Event()
        self._flusher = gevent.spawn(self._flush_until_end)
        self.sent = 0
        self.unsent = 0

    def write_header(self, header: dict[str, Any]) -> None:
        """Write the first line now."""
        self._lines.append(json.dumps(header))
        self._flush()

    def record(self, sample: Sample) -> None:
        """Take one row."""
        self.sent += sample.sent_ns is not None
        self.unsent += sample.outcome == "unsent"
        if self._file is not None:
            self._lines.append(as_line(sample._asdict()))

    def close(self, last_line: dict[str, Any]) -> None:
        """Write what is left and the last line, with the counts added, and close the file."""
        self._ending.set()
        self._flusher.join()
        self._lines.append(json.dumps(last_line | {"sent": self.sent, "unsent": self.unsent}))
        self._flush()
        if self._file is not None:
            self._file.close()

    def _flush_until_end(self) -> None:
        while not self._ending.wait(FLUSH_EVERY_S):
            self._flush()

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        if self._file is None or not lines:
            return
        text = "\n".join(lines) + "\n"
        error = gevent.get_hub().threadpool.apply(_write, (self._file, text.encode()))
        if error is not None:
            self._file.close()
            self._file = None
            self._on_error(error)


def _write(file: FileIO, text: bytes) -> OSError | None:
    """Write all of a text; return the error, which the thread that runs this would otherwise print."""
    try:
        while text:
            text = text[file.write(text) :]
    except OSError as error:
        return error
    return None


def wait_exceeded(holds_ms: Sequence[float], during_ms: float) -> float:
    """Return what whoever comes is kept waiting for longer than only during so much of the time, in milliseconds.

    Who comes during a hold waits for the rest of it, so for longer than x during all of it but its last x. One hold of
    a second counts by its length so, and not as one among many. ``holds_ms`` are longest first.
    """
    longer_ms = 0.0
    for count, hold_ms in enumerate(holds_ms, start=1):
        longer_ms += hold_ms
        wait_ms = (longer_ms - during_ms) / count
        if count == len(holds_ms) or wait_ms >= holds_ms[count]:
            return max(0.0, wait_ms)
    return 0.0


class LoopLag:
    """A probe that wakes every 10 ms and notes how much later than meant it woke, in milliseconds.

    A busy event loop stamps the end of a request late by as much; the p99 is over the moments at which one may end. The
    loop's timer itself rounds up to a whole millisecond, so an idle loop shows up to 1 ms.
    """

    def __init__(self) -> None:
        self._lags_ms = array("d")
        self._probe = gevent.spawn(self._run)

    def stop(self) -> dict[str, float]:
        """End the probe and return ``loop_lag_p99_ms`` and ``loop_lag_max_ms``."""
        self._probe.kill()
        lags_ms = sorted(self._lags_ms, reverse=True) or [0.0]
        observed_ms = len(lags_ms) * LAG_PROBE_S * 1000 + sum(lags_ms)
        return {
            "loop_lag_p99_ms": round(wait_exceeded(lags_ms, observed_ms / 100), 3),
            "loop_lag_max_ms": round(lags_ms[0], 3),
        }

    def _run(self) -> None:
        while True:
            slept_at = time.monotonic()
            gevent.sleep(LAG_PROBE_S)
            self._lags_ms.append(max(0.0, time.monotonic() - slept_at - LAG_PROBE_S) * 1000)
