"""What the faults of a block did to its bystanders: those meant to be sent while one was on, and those of before.

A fault is on from its injection until the stack could do work again, or else until the next one. Of before means, as
for `recovery`, intended in the window and at least half a second before the first.
"""

from pathlib import Path

import duckdb

from lab.globs import no_glob
from lab.report.recovery import BEFORE_NS, confirmed

WAITED = """
    WITH faults AS (SELECT unnest($began_ns::BIGINT[]) AS began_ns, unnest($over_ns::BIGINT[]) AS over_ns),
    seen AS (
        SELECT route, intended_ns < $normal_until_ns AS before,
               EXISTS (FROM faults WHERE intended_ns BETWEEN began_ns AND over_ns) AS during,
               if(outcome = 'acknowledged', (ended_ns - intended_ns) / 1e6, 'inf'::DOUBLE) AS response_ms
        FROM read_parquet($file) WHERE stream = 'bystander' AND phase = 'window')
    SELECT route, during, count(*), quantile_disc(response_ms, 0.5), quantile_disc(response_ms, 0.95)
    FROM seen WHERE before OR during GROUP BY route, during ORDER BY route, during
"""

# Requests, p50 and p95 of response time in ms.
Waited = tuple[int, float, float]


def beside_faults(folder: Path, window_end_ns: int) -> dict[tuple[str, bool], Waited]:
    """Return by route, and by whether a fault was on, how long the bystanders of a block waited; empty without one."""
    faults = confirmed(folder)
    if not faults:
        return {}
    began_ns = [fault.injected_ns for fault in faults]
    next_ns = [*began_ns[1:], window_end_ns]
    over_ns = [min(fault.healed_ns or end_ns, end_ns) for fault, end_ns in zip(faults, next_ns, strict=True)]
    values = {"file": no_glob(folder / "requests.parquet"), "began_ns": began_ns, "over_ns": over_ns}
    with duckdb.cursor() as db:
        rows = db.execute(WAITED, values | {"normal_until_ns": began_ns[0] - BEFORE_NS}).fetchall()
    return {(route, during): (count, p50_ms, p95_ms) for route, during, count, p50_ms, p95_ms in rows}
