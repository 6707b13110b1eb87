"""The clocks and the CPU time that others took: what can go wrong with time while a block runs."""

import time
from dataclasses import dataclass

import psutil


def steal_seconds() -> float:
    """Return the CPU seconds that the hypervisor gave to others since the boot; 0 where it cannot be told."""
    return float(getattr(psutil.cpu_times(), "steal", 0.0))


@dataclass(frozen=True)
class ClockReading:
    """The wall clock, the monotonic clock and the stolen CPU time at one moment."""

    wall_ns: int
    monotonic_ns: int
    stolen_s: float

    @classmethod
    def now(cls) -> "ClockReading":
        """Read them all."""
        return cls(time.time_ns(), time.monotonic_ns(), steal_seconds())

    def until(self, later: "ClockReading", cpus: int) -> dict[str, float]:
        """Return what happened between two readings: ``clock_step_ms`` and ``steal_share`` of ``cpus`` CPUs."""
        elapsed_ns = later.monotonic_ns - self.monotonic_ns
        step_ns = (later.wall_ns - self.wall_ns) - elapsed_ns
        return {
            "clock_step_ms": step_ns / 1e6,
            "steal_share": (later.stolen_s - self.stolen_s) / (elapsed_ns / 1e9 * cpus),
        }
