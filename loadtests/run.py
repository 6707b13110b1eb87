"""One run of the load: its arrivals, its sender and its samples, from the header line to the last."""

import gc
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import gevent

from loadtests.arrivals import NS_PER_S, Stream, bystanders, schedule, wait_until
from loadtests.options import LoadOptions
from loadtests.recorder import LoopLag, Recorder, Sample
from loadtests.sender import Intended, Sender
from loadtests.target import Target, permitted_target
from loadtests.users import ping, request_id, scenario

# Between the drawing of the schedule and its first arrival.
LEAD_NS = 200_000_000

CONNECTIONS = "reused, unless idle for 2 s; never resent"


class LoadRun:
    """Sends what the options ask for. ``report`` gets each sample and the length of its answer in bytes, but none
    of those that end because the run is stopped: they say nothing about the server.

    A fixed schedule is played by ``play``; without one, whoever has an arrival calls ``arrive``, and ``accompany``
    adds the bystanders. ``stop`` ends either, so that each intended request has its row. Where several contenders are
    named, each request is sent to each of them, with the same number, id and intended time. Raises UsageError where
    the options cannot be followed, and OSError where the samples cannot be written; ``on_error`` gets such an error
    that comes up later.
    """

    def __init__(
        self,
        options: LoadOptions,
        seed: int,
        report: Callable[[Sample, int], None],
        on_error: Callable[[OSError], None],
    ) -> None:
        self.options = options
        self.seed = seed
        self._report = report
        targets = {name: permitted_to(name, url, options.i_may_load) for name, url in options.targets.items()}
        self._scenario = scenario(options.scenario, options.probe_work, options.probe_seconds, options.requests)
        self._arrivals = (
            schedule(options.arrivals, options.rate, options.span_s, options.bystanders_per_s, seed)
            if options.rate is not None
            else []
        )
        self._next_seq = 0
        self._ending: gevent.Greenlet | None = None
        self._stopped = False
        self._recorder = Recorder(options.samples, on_error)
        self._senders = [
            Sender(target, self._record, options.in_flight, contender=name) for name, target in targets.items()
        ]
        self._bystanders: gevent.Greenlet | None = None
        self._lag = LoopLag()
        gc.collect()
        gc.freeze()  # what is here stays: later collections need not look at it, and take less time
        # Without a schedule the first arrival may come at once.
        self.start_ns = time.monotonic_ns() + (LEAD_NS if options.rate is not None else 0)
        self._window_ns = self.start_ns + round((options.warmup or 0.0) * NS_PER_S)
        self._recorder.write_header(self._header())

    def play(self) -> None:
        """Send the whole schedule, and return when everything is answered or has timed out."""
        for seq, arrival in enumerate(self._arrivals):
            intended = self._intended(seq, arrival.stream, self.start_ns + arrival.offset_ns)
            wait_until(intended.intended_ns)
            self._next_seq = seq + 1
            self._send(intended)
        for sender in self._senders:
            sender.drain()

    def arrive(self, intended_ns: int, stream: Stream = "load") -> None:
        """Send one request now, meant for ``intended_ns``."""
        intended = self._intended(self._next_seq, stream, intended_ns)
        self._next_seq += 1
        self._send(intended)

    def accompany(self) -> None:
        """Begin the bystanders of a load without a schedule; they go on until ``stop``."""
        self._bystanders = gevent.spawn(self._accompany)

    def _accompany(self) -> None:
        for arrival in bystanders(self.options.bystanders_per_s):
            intended_ns = self.start_ns + arrival.offset_ns
            wait_until(intended_ns)
            self.arrive(intended_ns, arrival.stream)

    def _send(self, intended: Intended) -> None:
        for sender in self._senders:
            sender.send(intended)

    def stop(self, grace_s: float = 0.0) -> None:
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
        for seq in range(self._next_seq, len(self._arrivals)):
            arrival = self._arrivals[seq]
            intended = self._intended(seq, arrival.stream, self.start_ns + arrival.offset_ns)
            for sender in self._senders:
                sender.give_up(intended, "stopped before it was sent")
        max_in_flight = max(sender.max_in_flight for sender in self._senders)
        self._recorder.close(self._lag.stop() | {"max_in_flight": max_in_flight})

    def _intended(self, seq: int, stream: Stream, intended_ns: int) -> Intended:
        an_id = request_id(self.seed, seq)
        return Intended(
            seq=seq,
            phase="window" if intended_ns >= self._window_ns else "warmup",
            bystander=stream != "load",
            request=self._scenario.request(Random(an_id.int)) if stream == "load" else ping(stream),
            request_id=an_id,
            intended_ns=intended_ns,
        )

    def _record(self, sample: Sample, length: int) -> None:
        self._recorder.record(sample)
        if not self._stopped:
            self._report(sample, length)

    def _header(self) -> dict[str, Any]:
        options = self.options
        end_ns = self._window_ns + round(options.duration * NS_PER_S) if options.duration is not None else None
        return {
            "schema": 1,
            "boot_id": boot_id(),
            "wall_ns": time.time_ns(),
            "monotonic_ns": time.monotonic_ns(),
            "host": None if options.contender_url else options.host,
            "contenders": {name: url for name, url in options.targets.items() if name is not None},
            "scenario": options.scenario,
            "rate": options.rate,
            "arrivals": options.arrivals,
            "seed": self.seed,
            "warmup_s": options.warmup or 0.0,
            "duration_s": options.duration,
            "bystanders": options.bystanders_per_s,
            "start_ns": self.start_ns,
            "window_start_ns": self._window_ns,
            "window_end_ns": end_ns,
            "connections": CONNECTIONS,
        }


def permitted_to(contender: str | None, url: str | None, may_load: Sequence[str]) -> Target:
    """Return the server to load. Raises UsageError that names the option where it may not be."""
    return permitted_target(url, may_load, "--host" if contender is None else f"--contender-url {contender}:")


def boot_id() -> str:
    """Return the kernel's id of this boot: monotonic clocks compare only within one. Empty where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
