"""Showing how far a run is: a line that moves in a terminal, plain lines elsewhere."""

import time
from dataclasses import dataclass, field

from rich.console import Console
from rich.status import Status

from lab.rundir import BlockRecord


def duration(seconds: float) -> str:
    """Return seconds as people say them: ``45 s``, ``6 min 10 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


@dataclass
class Progress:
    """Tells the console about each block, and how long the rest will take.

    The first estimate is the plan's; each finished block then counts as it was.
    """

    console: Console
    planned_s: dict[int, float]  # block number → estimate
    ends_at: float | None = None  # by the monotonic clock, where the time is given and not the blocks
    _status: Status | None = None
    _began: float = field(default_factory=time.monotonic)
    _spent_s: float = 0.0
    _spent_planned_s: float = 0.0

    def left_s(self) -> float:
        """Return the seconds that the blocks not yet finished will take, or that are left of the time given."""
        if self.ends_at is not None:
            return max(0.0, self.ends_at - self._began)
        pace = self._spent_s / self._spent_planned_s if self._spent_planned_s else 1.0
        return sum(self.planned_s.values()) * pace

    def expect(self, planned_s: dict[int, float]) -> None:
        """Take in further blocks, with their estimates."""
        self.planned_s |= planned_s

    def block(self, record: BlockRecord, position: int, total: int) -> None:
        """Say that a block begins, the ``position``-th of the run."""
        self._began = time.monotonic()
        at = f" at {record.rate:g}/s" if record.rate is not None else "" if self.ends_at is None else ", ramp"
        of = f"/{total}" if self.ends_at is None else ""
        self._title = f"block {position}{of}  {record.contender} · {record.fault or record.scenario}{at}"
        if self.console.is_terminal:
            self._status = self.console.status(self._title)
            self._status.start()
        else:
            self.console.print(f"{self._title} (about {duration(self.left_s())} left)")

    def phase(self, name: str) -> None:
        """Say what the block is doing now."""
        if self._status is not None:
            left = max(0.0, self.left_s() - (time.monotonic() - self._began))
            self._status.update(f"{self._title}  {name}  [dim]about {duration(left)} left[/dim]")

    def done(self, record: BlockRecord) -> None:
        """Say how a block ended."""
        took_s = time.monotonic() - self._began
        self._spent_s += took_s
        self._spent_planned_s += self.planned_s.pop(record.number, took_s)
        self.close()
        if record.state == "finished" and record.valid:
            verdict = "valid"
        else:
            verdict = ("void: " if record.state == "finished" else "failed: ") + " ".join(record.why)
        self.console.print(f"{self._title}  {verdict}  ({took_s:.0f} s)", markup=False, highlight=False)

    def close(self) -> None:
        """Take the moving line away."""
        if self._status is not None:
            self._status.stop()
            self._status = None
