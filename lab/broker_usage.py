"""What a contender's broker used in the window and the drain of a block, from two questions to it."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lab.load import read_header
from lab.rundir import BrokerUsage
from lab.stacks.broker import Counters

ASKED_WITHIN_NS = 500_000_000


class BrokerMeter:
    """Asks once when the window begins and once after the drain; each question is one `INFO`.

    Asked at every beat of the sampler instead, the answers would be a good part of the traffic that they count.
    """

    def __init__(self, ask: Callable[[], Counters | None], samples: Path) -> None:
        self.ask = ask
        self.samples = samples
        self._start_ns: int | None = None
        self._first: Counters | None = None
        self._asked = False

    def look(self) -> None:
        """Ask for the first time if the window has begun; to be called several times a second.

        Where nobody came to do so in time, what it used is not known.
        """
        if self._asked or not self._begun():
            return
        self._asked = True
        if time.monotonic_ns() - (self._start_ns or 0) <= ASKED_WITHIN_NS:
            self._first = self.ask()

    def used(self) -> BrokerUsage | None:
        """Return what it used since the window began; None where that is not known, or it is another one now."""
        last = self.ask() if self._first else None
        if self._first is None or last is None or last.process != self._first.process:
            return None
        return BrokerUsage(memory_bytes=last.memory_bytes, net_bytes=last.net_bytes - self._first.net_bytes)

    def _begun(self) -> bool:
        if self._start_ns is None:
            with suppress(FileNotFoundError, StopIteration, ValueError):  # the load has yet to write it
                self._start_ns = read_header(self.samples)["window_start_ns"]
        return self._start_ns is not None and time.monotonic_ns() >= self._start_ns
