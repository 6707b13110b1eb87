"""The figures of one block, read from its Parquet files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from lab.globs import no_glob
from lab.ledger import DONE
from lab.report.backlog import BlockBacklog, backlog
from lab.report.beside import Waited, beside_faults
from lab.report.recovery import ready_again, recoveries
from lab.rundir import BlockRecord, BrokerUsage
from lab.stats import REQUESTS_FOR_P99

# A request is given up by the client after 10 s; what took this long and was not acknowledged had timed out.
TIMED_OUT_NS = 9_900_000_000

Row = Mapping[str, Any]


@dataclass(frozen=True)
class BlockMeasures:
    """Figures by route (with ``all``), bystander and role, tasks by request outcome and fate; what came with faults.

    What the broker used, and the backlog.
    """

    routes: dict[str, Row]
    bystanders: dict[str, Row]
    roles: dict[str, Row]
    fates: list[Row]
    ready_s: list[float]
    recoveries_s: list[float]
    beside_faults: dict[tuple[str, bool], Waited]
    broker: BrokerUsage | None
    backlog: BlockBacklog

    @property
    def done(self) -> int:
        """How many tasks of the window were done by the end of the drain."""
        return sum(row["in_time"] for row in self.fates if row["fate"] in DONE)


REQUESTS = """
    WITH seen AS (
        SELECT route, outcome,
               if(outcome = 'acknowledged', (ended_ns - intended_ns) / 1e6, 'inf'::DOUBLE) AS response_ms,
               if(outcome = 'acknowledged', (ended_ns - sent_ns) / 1e6, NULL) AS service_ms,
               (sent_ns - intended_ns) / 1e6 AS lateness_ms,
               outcome <> 'acknowledged' AND ended_ns - sent_ns >= $timed_out_ns AS timed_out
        FROM read_parquet($file) WHERE stream = $stream AND phase = 'window')
    SELECT coalesce(route, 'all') AS route, count(*) AS requests,
           count_if(outcome = 'acknowledged') AS acknowledged, count_if(outcome = 'refused') AS refused,
           count_if(outcome = 'indeterminate') AS indeterminate, count_if(outcome = 'unsent') AS unsent,
           count_if(timed_out) AS timed_out,
           quantile_disc(response_ms, 0.5) AS response_p50_ms, quantile_disc(response_ms, 0.95) AS response_p95_ms,
           if(count(*) >= $for_p99, quantile_disc(response_ms, 0.99), NULL) AS response_p99_ms,
           quantile_disc(service_ms, 0.5) AS service_p50_ms, quantile_disc(service_ms, 0.95) AS service_p95_ms,
           quantile_disc(lateness_ms, 0.99) AS lateness_p99_ms
    FROM seen GROUP BY GROUPING SETS ((route), ()) HAVING count(*) > 0
"""

# A task whose request was never made belongs to no window: it counts, under no route. One that ended otherwise than
# done has no time to done, however fast it failed. Nor has what ended only when the drain was over, in the time that a
# process got to stop: its fate is done, but not by the horizon.
TASKS = """
    WITH steps AS (
        SELECT *, lag(ended_ns) OVER (PARTITION BY request_id ORDER BY position) AS before_ns
        FROM read_parquet($file) WHERE phase = 'window' OR request_id IS NULL),
    seen AS (
        SELECT coalesce(route, 'none') AS route, fate, request_outcome = 'acknowledged' AS told,
               coalesce(ended_ns <= $drained_ns, false) AND fate IN $done AS in_time,
               if(in_time, (ended_ns - intended_ns) / 1e6, 'inf'::DOUBLE) AS done_ms,
               CASE WHEN started_ns IS NULL AND fate IN ('pending', 'stranded', 'lost') THEN 'inf'::DOUBLE
                    ELSE greatest(0, started_ns - if(position > 0, before_ns, accepted_ns)) / 1e6 END AS wait_ms
        FROM steps)
    SELECT coalesce(route, 'all') AS route, count_if(told) AS tasks,
           quantile_disc(done_ms, 0.5) FILTER (told) AS done_p50_ms,
           quantile_disc(done_ms, 0.95) FILTER (told) AS done_p95_ms,
           quantile_disc(wait_ms, 0.5) FILTER (told) AS queue_wait_p50_ms,
           quantile_disc(wait_ms, 0.95) FILTER (told) AS queue_wait_p95_ms,
           count_if(in_time) / $elapsed_s AS goodput_per_s,
           histogram(fate) AS fates
    FROM seen GROUP BY GROUPING SETS ((route), ()) HAVING count(*) > 0
"""

FATES = """
    SELECT if(request_outcome IN ('acknowledged', 'indeterminate'), request_outcome, 'none') AS request_outcome,
           fate, count(*) AS count, count_if(ended_ns <= $drained_ns) AS in_time
    FROM read_parquet($file) WHERE phase = 'window' OR request_id IS NULL GROUP BY ALL
"""

# The role "all" is what makes up a contender; servers that both sides use, generator and lab are apart.
# CPU time of a process before the window does not count; a process that started in it began with none.
RESOURCES = """
    WITH samples AS (
        FROM read_parquet($file) WHERE t_ns <= $end_ns AND role <> 'cpus'
        UNION ALL
        SELECT * REPLACE ('all' AS role) FROM read_parquet($file)
        WHERE t_ns <= $end_ns AND role IN ('api', 'worker', 'broker')),
    processes AS (
        SELECT role, pid, max(cpu_s) - coalesce(max(cpu_s) FILTER (t_ns <= $start_ns), 0) AS cpu_s
        FROM samples GROUP BY role, pid),
    moments AS (
        SELECT role, t_ns, sum(coalesce(pss_bytes, rss_bytes)) AS bytes
        FROM samples WHERE t_ns >= $start_ns GROUP BY role, t_ns)
    SELECT role, round(sum(cpu_s), 6) AS cpu_s, -- the order of a parallel sum shows in its last digit
           (SELECT max(bytes) FROM moments WHERE moments.role = processes.role) AS peak_bytes
    FROM processes GROUP BY role
"""


def measure(folder: Path, block: BlockRecord) -> BlockMeasures:
    """Return the figures of a finished block. Raises duckdb.Error where a file of it is missing or broken."""
    start_ns, end_ns = block.window_start_ns or 0, block.drained_ns or block.window_end_ns or 0
    requests, tasks = no_glob(folder / "requests.parquet"), no_glob(folder / "tasks.parquet")
    with duckdb.cursor() as db:
        limits = {"file": requests, "timed_out_ns": TIMED_OUT_NS, "for_p99": REQUESTS_FOR_P99}
        routes = _by(db, "route", REQUESTS, stream="load", **limits)
        drained = {"file": tasks, "drained_ns": end_ns}
        elapsed_s = max(1, end_ns - start_ns) / 1e9
        for route, row in _by(db, "route", TASKS, elapsed_s=elapsed_s, done=DONE, **drained).items():
            if route in routes:
                routes[route] = {**routes[route], **row}
        bystanders = _by(db, "route", REQUESTS, stream="bystander", **limits)
        bystanders.pop("all", None)
        fates = _rows(db, FATES, **drained)
        resources = folder / "resources.parquet"
        bounds = {"file": no_glob(resources), "start_ns": start_ns, "end_ns": end_ns}
        roles = _by(db, "role", RESOURCES, **bounds) if resources.exists() else {}
    window_end_ns = block.window_end_ns or end_ns
    back_s, beside = recoveries(folder, window_end_ns), beside_faults(folder, window_end_ns)
    return BlockMeasures(
        routes, bystanders, roles, fates, ready_again(folder), back_s, beside, block.broker, backlog(folder, block)
    )


def _by(db: duckdb.DuckDBPyConnection, key: str, sql: str, **values: Any) -> dict[str, Row]:
    return {row[key]: row for row in _rows(db, sql, **values)}


def _rows(db: duckdb.DuckDBPyConnection, sql: str, **values: Any) -> list[Row]:
    result = db.execute(sql, values)
    names = [column[0] for column in result.description or []]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]
