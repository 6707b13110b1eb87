"""The backlog of one block over time: acknowledged tasks that have not ended.

A task is in it from the moment at which the client had its yes until it ended, in whatever way. What had ended before
that moment never was in it; what is lost never leaves it. The tasks of the warm-up count, for they are in the way of
those of the window.
"""

from dataclasses import dataclass
from pathlib import Path

import duckdb

from lab.globs import no_glob
from lab.report.recovery import confirmed
from lab.rundir import BlockRecord

EVERY_S = 0.25

# A change counts from the first moment that is not before it.
LEVELS = """
    WITH waiting AS (
        SELECT requests.ended_ns AS from_ns, tasks.ended_ns AS until_ns
        FROM read_parquet($tasks) AS tasks JOIN read_parquet($requests) AS requests USING (request_id)
        WHERE tasks.request_outcome = 'acknowledged' AND coalesce(tasks.ended_ns > requests.ended_ns, true)),
    changes AS (
        SELECT from_ns AS t_ns, 1 AS step FROM waiting
        UNION ALL
        SELECT until_ns, -1 FROM waiting WHERE until_ns IS NOT NULL),
    steps AS (
        SELECT greatest(0, ceil((t_ns - $start_ns) / $every_ns))::BIGINT AS moment, sum(step) AS step
        FROM changes GROUP BY moment)
    SELECT sum(coalesce(step, 0)) OVER (ORDER BY moment)::BIGINT
    FROM range($moments::BIGINT) AS moments(moment) LEFT JOIN steps USING (moment) ORDER BY moment
"""


@dataclass(frozen=True)
class BlockBacklog:
    """How many tasks there were every `EVERY_S` from the window's start; and the faults, in seconds after it."""

    tasks: list[int]
    window_s: float
    injected_s: list[float]

    @property
    def at_window_end(self) -> int:
        """How many there were at the last of the moments within the window."""
        return self.tasks[min(int(self.window_s / EVERY_S), len(self.tasks) - 1)]


def backlog(folder: Path, block: BlockRecord) -> BlockBacklog:
    """Return the backlog of a block through window and drain. Raises duckdb.Error as `measure` does."""
    start_ns, window_end_ns = block.window_start_ns or 0, block.window_end_ns or 0
    every_ns = int(EVERY_S * 1e9)
    last = -((start_ns - max(window_end_ns, block.drained_ns or 0)) // every_ns)  # the first after both
    values = {"requests": no_glob(folder / "requests.parquet"), "tasks": no_glob(folder / "tasks.parquet")}
    bounds = {"start_ns": start_ns, "every_ns": every_ns, "moments": last + 1}
    with duckdb.cursor() as db:
        levels = [level for (level,) in db.execute(LEVELS, values | bounds).fetchall()]
    return BlockBacklog(levels, (window_end_ns - start_ns) / 1e9, _injected_s(folder, start_ns))


def _injected_s(folder: Path, start_ns: int) -> list[float]:
    return [(fault.injected_ns - start_ns) / 1e9 for fault in confirmed(folder)]
