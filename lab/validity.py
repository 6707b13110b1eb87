"""Whether a block can be believed: only what the instrument or a shared server did wrong makes it void.

What a contender does (a dead worker, an endless drain, refusals) is its result and never void. The rules are those of
``docs/method.md``. From the block's record they use ``instrument``: ``loop_lag_p99_ms``, ``workers`` and
``workers_lost`` (from the last line of the samples), ``clock_step_ms``, ``steal_share`` (`lab.clock`), and what
`lab.pulse` saw of the shared servers.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from lab.globs import no_glob
from lab.rundir import BlockRecord, read_faults

LATE_MS = 2.0
LATE_SHARE = 0.05
STEAL_SHARE = 0.05
CLOCK_STEP_MS = 10.0
SILENT_S = 1.0
# What was sent before its sender was killed may be noted a moment later, by the mail sink.
CLOCKS_APART_NS = 1_000_000_000
# The kernel slews a clock that is off by at most this much, which is no step.
CLOCK_SLEW = 500e-6
IN_FLIGHT_CAP = 1000
# The generator counts a request as gone a moment after it has ended, so "full" is a little below the cap.
FULL_SHARE = 0.9
NOT_SENT = "requests were not sent although"
# Servers that all contenders use, by the name of their process.
SHARED = {"postgres": "PostgreSQL", "mail": "The mail sink"}


def judge(block: Path, record: BlockRecord) -> list[str]:
    """Return why a settled block is void, one sentence for each reason; empty where it is valid."""
    if lost := _workers_lost(record):
        return lost
    if "loop_lag_p99_ms" not in record.instrument:
        return ["The samples were cut off: the load generator did not get to write their last line."]
    load, bystanders = _timed(block, "load", (0.99, 0.95, 0.5)), _timed(block, "bystander", (0.95, 0.5))
    return [
        *_late("requests were sent", load.lateness_p99_ms, load.response_ms),
        *_late("bystanders were sent", bystanders.lateness_p99_ms, bystanders.response_ms),
        *_late("its event loop ran", record.instrument["loop_lag_p99_ms"], load.response_ms),
        *_unsent_with_room(block),
        *_stolen(record.instrument.get("steal_share", 0.0)),
        *_clock_step(record),
        *shared_servers_away(block),
        *_shared_servers_silent(record),
        *_faults_without_effect(block, record),
        *_unreadable(record),
        *_another_clock(block),
        *_unexplained(block),
    ]


def by_generator(why: list[str]) -> bool:
    """Return whether the load generator is among what made a block void: it could not put the load on as intended."""
    return any(sentence.startswith("The load generator") or NOT_SENT in sentence for sentence in why)


def _query(sql: str, **values: Any) -> tuple[Any, ...]:
    """Return the only row of a query."""
    row = duckdb.execute(sql, values).fetchone()
    assert row is not None
    return row


class Timed(NamedTuple):
    """How late a stream was sent in the window, and the response time to hold that against; both in ms."""

    lateness_p99_ms: float
    response_ms: float


def _timed(block: Path, stream: str, percentiles: Sequence[float]) -> Timed:
    """Return both of a stream; 0 where nothing was measured.

    Of the percentiles, highest first, the first that is finite counts: beside a request that takes for ever no lateness
    is large. Where none is, the response time is infinite whatever the generator does.
    """
    responses_ms, lateness_ms = _query(
        """
        SELECT quantile_disc(if(outcome = 'acknowledged', (ended_ns - intended_ns) / 1e6, 'inf'::DOUBLE), $shares),
               quantile_disc((sent_ns - intended_ns) / 1e6, 0.99)
        FROM read_parquet($requests) WHERE stream = $stream AND phase = 'window'
        """,
        requests=no_glob(block / "requests.parquet"),
        stream=stream,
        shares=list(percentiles),
    )
    return Timed(lateness_ms or 0.0, next(filter(math.isfinite, responses_ms or [0.0]), math.inf))


def _workers_lost(record: BlockRecord) -> list[str]:
    lost, workers = (int(record.instrument.get(name, 0)) for name in ("workers_lost", "workers"))
    return [f"The load generator lost {lost} of its {workers} Locust workers, and so part of the load."] if lost else []


def _late(what: str, late_ms: float, response_ms: float) -> list[str]:
    if late_ms <= LATE_MS or late_ms <= LATE_SHARE * response_ms:
        return []
    compared = f", {late_ms / response_ms:.0%} of the response time's" if response_ms else ""
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
    return [f"{count:,} {NOT_SENT} fewer than {IN_FLIGHT_CAP:,} were under way."] if count else []


def _stolen(share: float) -> list[str]:
    return [f"The CPU was taken away: {share:.0%} of it went to others (steal)."] if share > STEAL_SHARE else []


def _clock_step(record: BlockRecord) -> list[str]:
    step_ms = record.instrument.get("clock_step_ms", 0.0)
    elapsed_ns = (record.drained_ns or 0) - (record.window_start_ns or 0)
    if abs(step_ms) <= CLOCK_STEP_MS + CLOCK_SLEW * max(0, elapsed_ns) / 1e6:
        return []
    return [f"The clock stepped: the wall clock moved {step_ms:+.0f} ms against the monotonic clock."]


def shared_servers_away(block: Path) -> list[str]:
    """Return which shared servers ended during a block, one sentence each; none that a fault ended."""
    meant = {pid for fault in read_faults(block) for pid in fault.pids}
    ended = [record for record in _processes(block) if record["event"] == "ended" and record["pid"] not in meant]
    return [f"{SHARED[record['name']]} was away: its process ended." for record in ended if record["name"] in SHARED]


def _processes(block: Path) -> list[dict[str, Any]]:
    """Return what is on record of the processes; nothing where the block did not get that far."""
    path = block / "evidence" / "processes.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _shared_servers_silent(record: BlockRecord) -> list[str]:
    """Return which shared servers hung, or dropped the lab's connection, one sentence each."""
    found = []
    for name, server in SHARED.items():
        if (silent_s := record.instrument.get(f"{name}_silent_s", 0.0)) > SILENT_S:
            found.append(f"{server} hung: it did not answer for {silent_s:.1f} s.")
        if record.instrument.get(f"{name}_hung_up"):
            found.append(f"{server} was away: it hung up on the lab.")
    return found


def _faults_without_effect(block: Path, record: BlockRecord) -> list[str]:
    if record.fault and not read_faults(block):
        return [f"The fault {record.fault} was never injected: the window is too short for it."]
    did_not_happen = [one.fault for one in read_faults(block) if not one.confirmed and not one.absent]
    return [f"The fault {fault} was injected and did not happen." for fault in did_not_happen]


def _unreadable(record: BlockRecord) -> list[str]:
    count = int(record.instrument.get("journal_lines_unreadable", 0))
    lines = f"{count:,} line{'' if count == 1 else 's'}"
    return [f"{lines} of the journal cannot be read: what became of their tasks is not known."] if count else []


def _another_clock(block: Path) -> list[str]:
    """Return whether a task did something before it was asked for, or after the last look at the processes."""
    looked_ns = max((record["t_ns"] for record in _processes(block)), default=None)
    count, example = _query(
        """
        SELECT count(*), min(task_id) FROM read_parquet($tasks)
        WHERE least(accepted_ns, started_ns, ended_ns) < intended_ns - $apart_ns
           OR greatest(accepted_ns, started_ns, ended_ns) > $latest_ns
        """,
        tasks=no_glob(block / "tasks.parquet"),
        apart_ns=CLOCKS_APART_NS,
        latest_ns=None if looked_ns is None else looked_ns + CLOCKS_APART_NS,
    )
    if not count:
        return []
    when = f"{count:,} tasks did something before they were asked for, or after the block; one of them is {example}"
    return [f"Journal or effects are of another clock than the lab's, which is the monotonic one: {when}."]


def _unexplained(block: Path) -> list[str]:
    count, example = _query(
        "SELECT count(*), min(task_id) FROM read_parquet($tasks) WHERE agreement = 'unexplained'",
        tasks=no_glob(block / "tasks.parquet"),
    )
    if not count:
        return []
    return [f"Journal and effects differ, unexplained, for {count:,} of the tasks; one of them is {example}."]
