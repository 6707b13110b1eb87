"""One run of the load: its arrivals, its sender and its samples, from the header line to the last."""

import gc
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import gevent

from loadtests.arrivals import NS_PER_S, Stream, schedule, wait_until
from loadtests.options import LoadOptions
from loadtests.recorder import LoopLag, Recorder, Sample
from loadtests.sender import Intended, Sender
from loadtests.target import permitted_target
from loadtests.users import ping, request_id, scenario

# Between the drawing of the schedule and its first arrival.
LEAD_NS = 200_000_000

CONNECTIONS = "reused, unless idle for 2 s; never resent"


class LoadRun:
    """Sends what the options ask for. ``report`` gets each sample and the length of its answer in bytes, but none
    of those that end because the run is stopped: they say nothing about the server.

    A fixed schedule is played by ``play``; without one, whoever has an arrival calls ``arrive``. ``stop`` ends
    either, so that each intended request has its row. Raises UsageError where the options cannot be followed, and
    OSError where the samples cannot be written; ``on_error`` gets such an error that comes up later.
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
        target = permitted_target(options.host, options.i_may_load)
        self._scenario = scenario(options.scenario, options.probe_work, options.probe_seconds, options.requests)
        self._arrivals = (
            schedule(options.arrivals, options.rate, options.span_s, options.bystanders or 0.0, seed)
            if options.rate is not None
            else []
        )
        self._next_seq = 0
        self._ending: gevent.Greenlet | None = None
        self._stopped = False
        self._recorder = Recorder(options.samples, on_error)
        self._sender = Sender(target, self._record, options.in_flight)
        self._lag = LoopLag()
        gc.collect()
        gc.freeze()  # what is here stays: later collections need not look at it, and take less time
        self._start_ns = time.monotonic_ns() + LEAD_NS
        self._window_ns = self._start_ns + round((options.warmup or 0.0) * NS_PER_S)
        self._recorder.write_header(self._header())

    def play(self) -> None:
        """Send the whole schedule, and return when everything is answered or has timed out."""
        for seq, arrival in enumerate(self._arrivals):
            intended = self._intended(seq, arrival.stream, self._start_ns + arrival.offset_ns)
            wait_until(intended.intended_ns)
            self._next_seq = seq + 1
            self._sender.send(intended)
        self._sender.drain()

    def arrive(self, intended_ns: int) -> None:
        """Send one request of the load now, meant for ``intended_ns``."""
        intended = self._intended(self._next_seq, "load", intended_ns)
        self._next_seq += 1
        self._sender.send(intended)

    def stop(self, grace_s: float = 0.0) -> None:
        """End the run, once: after at most ``grace_s`` for what is in flight, every intended request has its row."""
        if self._ending is None:
            self._ending = gevent.spawn(self._end, grace_s)
        self._ending.join()

    def _end(self, grace_s: float) -> None:
        self._sender.drain(grace_s)
        self._stopped = True
        self._sender.stop()
        for seq in range(self._next_seq, len(self._arrivals)):
            arrival = self._arrivals[seq]
            intended = self._intended(seq, arrival.stream, self._start_ns + arrival.offset_ns)
            self._sender.give_up(intended, "stopped before it was sent")
        self._recorder.close(self._lag.stop() | {"max_in_flight": self._sender.max_in_flight})

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
            "host": options.host,
            "scenario": options.scenario,
            "rate": options.rate,
            "arrivals": options.arrivals,
            "seed": self.seed,
            "warmup_s": options.warmup or 0.0,
            "duration_s": options.duration,
            "bystanders": options.bystanders or 0.0,
            "start_ns": self._start_ns,
            "window_start_ns": self._window_ns,
            "window_end_ns": end_ns,
            "connections": CONNECTIONS,
        }


def boot_id() -> str:
    """Return the kernel's id of this boot: monotonic clocks compare only within one. Empty where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
