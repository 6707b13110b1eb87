"""The clocks and the CPU time that others took: what can go wrong with time while a block runs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import psutil

# Between two of its readings a process may be kept from running, and the lab, of the lowest rank, often is.
READINGS = 10


@dataclass(frozen=True)
class ClockReading:
    """The wall clock and the monotonic clock at one moment, and how long it took to look at both."""

    wall_ns: int
    monotonic_ns: int
    took_ns: int = 0

    @classmethod
    def now(cls) -> "ClockReading":
        """Read both, a few times, and return that reading which took the shortest: a pause in between is no step."""
        return min((cls._once() for _ in range(READINGS)), key=lambda reading: reading.took_ns)

    @classmethod
    def _once(cls) -> "ClockReading":
        before_ns, wall_ns, after_ns = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        return cls(wall_ns, (before_ns + after_ns) // 2, after_ns - before_ns)

    def step_ms(self, later: "ClockReading") -> float:
        """Return by how much the wall clock moved against the monotonic clock between two readings."""
        return ((later.wall_ns - self.wall_ns) - (later.monotonic_ns - self.monotonic_ns)) / 1e6


@dataclass(frozen=True)
class StealReading:
    """For how long the hypervisor has given some CPUs to others since the boot, at one moment; 0 where none tells."""

    cpus: Sequence[int]
    t_ns: int
    stolen_s: float

    @classmethod
    def now(cls, cpus: Sequence[int]) -> "StealReading":
        """Read it of these CPUs, and of no other."""
        each = enumerate(psutil.cpu_times(percpu=True))
        stolen_s = sum(float(getattr(times, "steal", 0.0)) for cpu, times in each if cpu in cpus)
        return cls(cpus, time.monotonic_ns(), stolen_s)

    def share_until(self, later: "StealReading") -> float:
        """Return which share of the time of these CPUs was taken between two readings."""
        return (later.stolen_s - self.stolen_s) / ((later.t_ns - self.t_ns) / 1e9 * len(self.cpus))


def steal_share(readings: Sequence[StealReading], start_ns: int, end_ns: int) -> float | None:
    """Return which share of the CPUs' time was taken between two moments; None where nobody looked then.

    ``readings`` are in the order of their times. What was taken between two of them is taken to be spread evenly.
    """
    looked_ns, taken_ns = 0, 0.0
    for one, following in pairwise(readings):
        within_ns = max(0, min(following.t_ns, end_ns) - max(one.t_ns, start_ns))
        looked_ns += within_ns
        taken_ns += within_ns * one.share_until(following)
    return taken_ns / looked_ns if looked_ns else None
