"""Whether a block can be believed: only what the instrument or a shared server did wrong makes it void.

What a contender does (a dead worker, an endless drain, refusals) is its result and never void. The rules are those of
``docs/method.md``. From the block's record they use ``instrument``: ``loop_lag_p99_ms``, ``workers`` and
``workers_lost`` (from the last line of the samples), ``clock_step_ms`` and ``steal_share``.
"""

import json
from pathlib import Path
from typing import Any

import duckdb

from lab.globs import no_glob
from lab.rundir import BlockRecord

LATE_MS = 2.0
LATE_SHARE_OF_P99 = 0.05
STEAL_SHARE = 0.05
CLOCK_STEP_MS = 10.0
# The kernel slews a clock that is off by at most this much, which is no step.
CLOCK_SLEW = 500e-6
IN_FLIGHT_CAP = 1000
# The generator counts a request as gone a moment after it has ended, so "full" is a little below the cap.
FULL_SHARE = 0.9
# Servers that all contenders use, by the name of their process.
SHARED = {"postgres": "PostgreSQL", "mail": "The mail sink"}


def judge(block: Path, record: BlockRecord) -> list[str]:
    """Return why a settled block is void, one sentence for each reason; empty where it is valid."""
    if lost := _workers_lost(record):
        return lost
    if "loop_lag_p99_ms" not in record.instrument:
        return ["The samples were cut off: the load generator did not get to write their last line."]
    response_p99_ms, lateness_p99_ms = _window_p99(block)
    return [
        *_late("requests were sent", lateness_p99_ms, response_p99_ms),
        *_late("its event loop ran", record.instrument["loop_lag_p99_ms"], response_p99_ms),
        *_unsent_with_room(block),
        *_stolen(record.instrument.get("steal_share", 0.0)),
        *_clock_step(record),
        *_shared_servers_away(block),
        *_faults_without_effect(block, record),
        *_unexplained(block),
    ]


def _query(sql: str, **values: Any) -> tuple[Any, ...]:
    """Return the only row of a query."""
    row = duckdb.execute(sql, values).fetchone()
    assert row is not None
    return row


def _window_p99(block: Path) -> tuple[float, float]:
    """Return the p99 of response time and of lateness in the window, both in ms; 0 where nothing was measured."""
    response, lateness = _query(
        """
        SELECT quantile_disc(if(outcome = 'acknowledged', (ended_ns - intended_ns) / 1e6, 'inf'::DOUBLE), 0.99),
               quantile_disc((sent_ns - intended_ns) / 1e6, 0.99)
        FROM read_parquet($requests) WHERE stream = 'load' AND phase = 'window'
        """,
        requests=no_glob(block / "requests.parquet"),
    )
    return response or 0.0, lateness or 0.0


def _workers_lost(record: BlockRecord) -> list[str]:
    lost, workers = (int(record.instrument.get(name, 0)) for name in ("workers_lost", "workers"))
    return [f"The load generator lost {lost} of its {workers} Locust workers, and so part of the load."] if lost else []


def _late(what: str, late_ms: float, response_p99_ms: float) -> list[str]:
    if late_ms <= LATE_MS or late_ms <= LATE_SHARE_OF_P99 * response_p99_ms:
        return []
    compared = f", {late_ms / response_p99_ms:.0%} of the response time's" if response_p99_ms else ""
    return [f"The load generator was late: {what} late by {late_ms:.1f} ms (p99){compared}."]


def _unsent_with_room(block: Path) -> list[str]:
    """Compare, at each request that was not sent, how many others were under way with the in-flight cap."""
    (count,) = _query(
        """
        WITH changes AS (
            SELECT sent_ns AS t_ns, 1 AS change, false AS unsent FROM read_parquet($requests) WHERE sent_ns IS NOT NULL
            UNION ALL
            SELECT ended_ns, -1, false FROM read_parquet($requests) WHERE ended_ns IS NOT NULL AND sent_ns IS NOT NULL
            UNION ALL
            SELECT intended_ns, 0, true FROM read_parquet($requests) WHERE outcome = 'unsent'),
        levels AS (SELECT unsent, sum(change) OVER (ORDER BY t_ns ROWS UNBOUNDED PRECEDING) AS in_flight FROM changes)
        SELECT count(*) FROM levels WHERE unsent AND in_flight < $full
        """,
        requests=no_glob(block / "requests.parquet"),
        full=FULL_SHARE * IN_FLIGHT_CAP,
    )
    return [f"{count:,} requests were not sent although fewer than {IN_FLIGHT_CAP:,} were under way."] if count else []


def _stolen(share: float) -> list[str]:
    return [f"The CPU was taken away: {share:.0%} of it went to others (steal)."] if share > STEAL_SHARE else []


def _clock_step(record: BlockRecord) -> list[str]:
    step_ms = record.instrument.get("clock_step_ms", 0.0)
    elapsed_ns = (record.drained_ns or 0) - (record.window_start_ns or 0)
    if abs(step_ms) <= CLOCK_STEP_MS + CLOCK_SLEW * max(0, elapsed_ns) / 1e6:
        return []
    return [f"The clock stepped: the wall clock moved {step_ms:+.0f} ms against the monotonic clock."]


def _shared_servers_away(block: Path) -> list[str]:
    """Find a shared server that ended during the block, unless a fault ended it."""
    path = block / "evidence" / "processes.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    meant = {pid for fault in _faults(block) for pid in fault["pids"]}
    ended = [record for record in records if record["event"] == "ended" and record["pid"] not in meant]
    return [f"{SHARED[record['name']]} was away: its process ended." for record in ended if record["name"] in SHARED]


def _faults_without_effect(block: Path, record: BlockRecord) -> list[str]:
    if record.fault and not _faults(block):
        return [f"The fault {record.fault} was never injected: the window is too short for it."]
    did_not_happen = [one["fault"] for one in _faults(block) if not one["confirmed"] and not one.get("absent")]
    return [f"The fault {fault} was injected and did not happen." for fault in did_not_happen]


def _faults(block: Path) -> list[dict[str, Any]]:
    path = block / "faults.json"
    faults: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    return faults


def _unexplained(block: Path) -> list[str]:
    count, example = _query(
        "SELECT count(*), min(task_id) FROM read_parquet($tasks) WHERE agreement = 'unexplained'",
        tasks=no_glob(block / "tasks.parquet"),
    )
    if not count:
        return []
    return [f"Journal and effects differ, unexplained, for {count:,} of the tasks; one of them is {example}."]
