"""One run of the load in one process: what the plan says is sent, and each request has its row at the end."""

import gc
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import gevent

from loadtests.arrivals import Stream, bystanders, wait_until
from loadtests.plan import Plan
from loadtests.promptness import be_prompt
from loadtests.recorder import LoopLag, Sample
from loadtests.sender import Intended, Sender
from loadtests.target import Target, permitted_target

# The generator is awake for a while before each arrival: above this it would leave too little to who shares its CPU.
PROMPT_BELOW_PER_S = 2_000


class Rows(Protocol):
    """Where the samples go."""

    def record(self, sample: Sample) -> None:
        """Take one row."""

    def close(self, last_line: dict[str, float]) -> None:
        """Take note that there are no more, and of how the run went."""


class Share(NamedTuple):
    """Which requests of a plan one process sends: every ``of``-th, beginning with number ``nth``."""

    nth: int = 0
    of: int = 1

    @classmethod
    def of_worker(cls, worker: str, there: Sequence[str]) -> "Share":
        """Return the share of one of the workers that are there; who came later is one more."""
        return cls(there.index(worker), len(there)) if worker in there else cls(len(there), len(there) + 1)

    def in_flight(self, cap: int) -> int:
        """Return the process's part of a cap; the parts of all of them add up to it, unless it is below ``of``."""
        return max(1, (cap + self.nth) // self.of)

    def has_bystander(self, number: int) -> bool:
        """Return whether a bystander is the process's: by pairs, so that both streams outlive any one process."""
        return number // 2 % self.of == self.nth


class LoadRun:
    """Sends a plan, or a share of it. ``report`` gets each sample and the length of its answer in bytes, but none of
    those that end because the run is stopped: they say nothing about the server.

    After ``begin``, a fixed schedule is played by ``play``; without one, whoever has an arrival calls ``arrive``, and
    ``accompany`` adds the bystanders. ``end`` ends either, so that each intended request has its row. Where several
    contenders are named, each request is sent to each of them, with the same number, id and intended time. Raises
    UsageError where a server may not be loaded.
    """

    def __init__(
        self, plan: Plan, rows: Rows, report: Callable[[Sample, int], None], share: Share | None = None
    ) -> None:
        self.plan = plan
        self._rows = rows
        self._report = report
        self._share = share or Share()
        options = plan.options
        targets = {name: permitted_to(name, url, options.i_may_load) for name, url in options.targets.items()}
        self._next_seq = self._share.nth
        self._ending: gevent.Greenlet | None = None
        self._stopped = False
        in_flight_cap = self._share.in_flight(options.in_flight)
        self._senders = [
            Sender(target, self._record, in_flight_cap, contender=name) for name, target in targets.items()
        ]
        self._bystanders: gevent.Greenlet | None = None
        plan.draw(self._to_come())
        self._real_time = options.sent_per_s < PROMPT_BELOW_PER_S and be_prompt()
        gc.collect()
        gc.freeze()  # what is here stays: later collections need not look at it, and take less time

    def begin(self, start_ns: int) -> None:
        """Say when the run starts, by the monotonic clock."""
        self.plan.begin(start_ns)
        self._lag = LoopLag()

    def play(self) -> None:
        """Send the share of the schedule, and return when everything is answered or has timed out."""
        for seq in self._to_come():
            intended = self.plan.scheduled(seq)
            wait_until(intended.intended_ns)
            self._next_seq = seq + self._share.of
            self._send(intended)
        for sender in self._senders:
            sender.drain()

    def arrive(self, intended_ns: int, stream: Stream = "load") -> None:
        """Send one request now, meant for ``intended_ns``."""
        intended = self.plan.request(self._next_seq, stream, intended_ns)
        self._next_seq += self._share.of
        self._send(intended)

    def accompany(self) -> None:
        """Begin the share of the bystanders of a load without a schedule; they go on until ``end``."""
        self._bystanders = gevent.spawn(self._accompany)

    def _accompany(self) -> None:
        for number, arrival in enumerate(bystanders(self.plan.options.bystanders_per_s)):
            if not self._share.has_bystander(number):
                continue
            intended_ns = self.plan.start_ns + arrival.offset_ns
            wait_until(intended_ns)
            self.arrive(intended_ns, arrival.stream)

    def _to_come(self) -> range:
        """Return the numbers of what is scheduled here and has not been sent."""
        return range(self._next_seq, len(self.plan), self._share.of)

    def _send(self, intended: Intended) -> None:
        for sender in self._senders:
            sender.send(intended)

    def end(self, grace_s: float = 0.0) -> None:
        """End the run, once: after at most ``grace_s`` for what is in flight, every intended request has its row."""
        if self._ending is None:
            self._ending = gevent.spawn(self._end, grace_s)
        self._ending.join()

    def _end(self, grace_s: float) -> None:
        if self._bystanders is not None:
            self._bystanders.kill()
        deadline_s = time.monotonic() + grace_s
        for sender in self._senders:
            sender.drain(max(0.0, deadline_s - time.monotonic()))
        self._stopped = True
        for sender in self._senders:
            sender.stop()
        for seq in self._to_come():
            intended = self.plan.scheduled(seq)
            for sender in self._senders:
                sender.give_up(intended, "stopped before it was sent")
        max_in_flight = max(sender.max_in_flight for sender in self._senders)
        alone = {"workers": 1, "workers_lost": 0, "real_time": int(self._real_time)}
        self._rows.close(self._lag.stop() | {"max_in_flight": max_in_flight} | alone)

    def _record(self, sample: Sample, length: int) -> None:
        self._rows.record(sample)
        if not self._stopped:
            self._report(sample, length)


def permitted_to(contender: str | None, url: str | None, may_load: Sequence[str]) -> Target:
    """Return the server to load. Raises UsageError that names the option where it may not be."""
    return permitted_target(url, may_load, "--host" if contender is None else f"--contender-url {contender}:")
