"""How long a contender took to be ready, and back to normal, after each fault of a block.

It is ready when its API says that all it needs is up, its workers included.

A request is disturbed if it was not acknowledged, or one of its tasks was not done, or either took longer than three
times the p95 of before the faults and longer than 250 ms; of before means intended in the window, which leaves out the
warm-up, and at least half a second before the first one, which leaves out what that one caught under way. A contender
is back to normal after the last disturbed request before a second in which there were others and none was disturbed;
how long that took counts from the injection to that request's intended time. A disturbance that begins late belongs to
the injection before it. Where the p95 of before is infinite there was no normal to come back to.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import duckdb

from lab.globs import no_glob
from lab.ledger import DONE
from lab.rundir import Injection, read_faults

SLOW = 3
SLOW_AT_LEAST_MS = 250
QUIET_NS = 1_000_000_000
BEFORE_NS = 500_000_000

DISTURBED = """
    WITH work AS (
        SELECT request_id,
               max(if(fate IN $done, (ended_ns - intended_ns) / 1e6, 'inf'::DOUBLE)) AS done_ms
        FROM read_parquet($tasks) GROUP BY request_id),
    seen AS (
        SELECT intended_ns, phase, coalesce(done_ms, 0) AS done_ms,
               if(outcome = 'acknowledged', (ended_ns - intended_ns) / 1e6, 'inf'::DOUBLE) AS response_ms
        FROM read_parquet($requests) LEFT JOIN work USING (request_id) WHERE stream = 'load'),
    normal AS (
        SELECT coalesce(quantile_disc(response_ms, 0.95), 0) AS response_ms,
               coalesce(quantile_disc(done_ms, 0.95), 0) AS done_ms
        FROM seen WHERE phase = 'window' AND intended_ns < $normal_until_ns),
    judged AS (
        SELECT seen.intended_ns,
               seen.response_ms > greatest($at_least_ms, $slow * normal.response_ms) OR isinf(seen.response_ms)
               OR seen.done_ms > greatest($at_least_ms, $slow * normal.done_ms) OR isinf(seen.done_ms)
               OR isinf(normal.response_ms) OR isinf(normal.done_ms) AS disturbed,
               len([at_ns FOR at_ns IN $injected::BIGINT[] IF at_ns <= seen.intended_ns]) AS injections
        FROM seen, normal)
    SELECT intended_ns, disturbed FROM judged WINDOW in_order AS (ORDER BY intended_ns, disturbed)
    QUALIFY (lag(disturbed) OVER in_order, lag(injections) OVER in_order) IS DISTINCT FROM (disturbed, injections)
         OR (lead(disturbed) OVER in_order, lead(injections) OVER in_order) IS DISTINCT FROM (disturbed, injections)
    ORDER BY intended_ns, disturbed
"""


def recoveries(folder: Path, window_end_ns: int) -> list[float]:
    """Return for each confirmed fault of a block the seconds until all was normal again.

    0 where nothing was disturbed; ``math.inf`` where no normal second came before the next fault or the window's end,
    or it was not normal before the first fault.
    """
    injected = [fault.injected_ns for fault in confirmed(folder)]
    if not injected:
        return []
    disturbed = _disturbed(folder, injected)
    return list(_each(injected, disturbed, window_end_ns))


def ready_again(folder: Path) -> list[float]:
    """Return for each confirmed fault of a block the seconds until the stack could do work again; inf for never."""
    return [
        (fault.healed_ns - fault.injected_ns) / 1e9 if fault.healed_ns is not None else math.inf
        for fault in confirmed(folder)
    ]


def confirmed(folder: Path) -> list[Injection]:
    """Return the faults of a block that happened, in their order. Raises LabError where their file is damaged."""
    return sorted((fault for fault in read_faults(folder) if fault.confirmed), key=lambda fault: fault.injected_ns)


def _disturbed(folder: Path, injected: list[int]) -> list[tuple[int, bool]]:
    """Return the intended time of requests, and whether each was disturbed.

    Of those in a row between two injections that are alike in that, the first and the last stand for all.
    """
    values = {"requests": no_glob(folder / "requests.parquet"), "tasks": no_glob(folder / "tasks.parquet")}
    limits = {"done": DONE, "slow": SLOW, "at_least_ms": SLOW_AT_LEAST_MS}
    limits |= {"injected": injected, "normal_until_ns": injected[0] - BEFORE_NS}
    with duckdb.cursor() as db:
        return [(t_ns, bool(disturbed)) for t_ns, disturbed in db.execute(DISTURBED, values | limits).fetchall()]


def _each(injected: list[int], requests: list[tuple[int, bool]], window_end_ns: int) -> Iterator[float]:
    for start_ns, end_ns in zip(injected, [*injected[1:], window_end_ns], strict=True):
        # The last disturbed one, whether there was any, and whether there were others since.
        last_ns, begun, others = start_ns, False, False
        for t_ns, disturbed in ((t, disturbed) for t, disturbed in requests if start_ns <= t < end_ns):
            if not disturbed:
                others = True
            elif begun and others and t_ns - last_ns > QUIET_NS:
                break
            else:
                last_ns, begun, others = t_ns, True, False
        over = others and end_ns - last_ns > QUIET_NS
        yield (last_ns - start_ns) / 1e9 if over else math.inf
