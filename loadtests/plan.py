"""What a run sends, and when: drawn from the options and the seed alone, so that every process draws the same."""

import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID, uuid5

from loadtests.arrivals import NS_PER_S, Stream, schedule
from loadtests.options import LoadOptions
from loadtests.sender import Intended
from loadtests.users import Request, ping, request_id, scenario

# Between the moment that everything is ready and the first arrival of a schedule.
LEAD_NS = 200_000_000

# To draw a request takes a sixth of the time that one takes in all. To draw so many takes a second: as long as a Locust
# worker may well be silent.
DRAWN_BEFOREHAND = 50_000

CONNECTIONS = "reused, unless idle for 2 s; never resent"


class Plan:
    """The requests of a run by their number; its length is that of the fixed schedule, 0 where there is none.

    Times are of the monotonic clock and known once ``begin`` has been called. Raises UsageError where the scenario
    cannot be made.
    """

    def __init__(self, options: LoadOptions, seed: int) -> None:
        self.options = options
        self.seed = seed
        self.start_ns = self._window_ns = 0
        self._scenario = scenario(options.scenario, options.probe_work, options.probe_seconds, options.requests)
        self._arrivals = (
            schedule(options.arrivals, options.rate, options.span_s, options.bystanders_per_s, seed)
            if options.rate is not None
            else []
        )
        self._drawn: dict[int, tuple[UUID, Request]] = {}

    def __len__(self) -> int:
        return len(self._arrivals)

    def draw(self, numbers: Sequence[int]) -> None:
        """Draw the first requests of these numbers of the schedule beforehand."""
        for seq in numbers[:DRAWN_BEFOREHAND]:
            self._drawn[seq] = self._draw(seq, self._arrivals[seq].stream)

    def _draw(self, seq: int, stream: Stream) -> tuple[UUID, Request]:
        drawn_from = request_id(self.seed, seq)
        an_id = uuid5(drawn_from, self.options.ids) if self.options.ids else drawn_from
        return an_id, self._scenario.request(Random(drawn_from.int)) if stream == "load" else ping(stream)

    def begin(self, start_ns: int) -> None:
        """Say when the run starts."""
        self.start_ns = start_ns
        self._window_ns = start_ns + round((self.options.warmup or 0.0) * NS_PER_S)

    def scheduled(self, seq: int) -> Intended:
        """Return a request of the fixed schedule."""
        arrival = self._arrivals[seq]
        return self.request(seq, arrival.stream, self.start_ns + arrival.offset_ns)

    def request(self, seq: int, stream: Stream, intended_ns: int) -> Intended:
        """Return the request of a number, meant for ``intended_ns``."""
        an_id, request = self._drawn.pop(seq) if seq in self._drawn else self._draw(seq, stream)
        return Intended(
            seq=seq,
            phase="window" if intended_ns >= self._window_ns else "warmup",
            bystander=stream != "load",
            request=request,
            request_id=an_id,
            intended_ns=intended_ns,
        )

    def header(self, workers: int = 1) -> dict[str, Any]:
        """Return the first line of the samples; ``workers`` is how many processes send."""
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
            "workers": workers,
        }


def boot_id() -> str:
    """Return the kernel's id of this boot: monotonic clocks compare only within one. Empty where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
