"""Whether a contender sustained a rate: the figures of a window that the SLO is about, and what set the limit."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import duckdb

from lab.capacity import Trial, guess_from_ramp
from lab.globs import no_glob
from lab.ledger import DONE
from lab.rundir import BlockRecord, RampStep, RunDir, RunRecord, Slo
from lab.validity import LATE_MS, LATE_SHARE

Limit = Literal["cpu", "slots", "generator", "not known"]

# The backlog grows where its mean in the last quarter of the window is above that in the second by more than this
# share of the requests that came in between, and by more tasks than the luck of a few moments makes.
GROWTH_SHARE = 0.03
GROWTH_TASKS = 2.0
# Of the CPUs that a contender has: above this they are its limit.
CPU_BUSY = 0.9
# Slots are full where on average at least this share of the most tasks that ever ran at once runs in the last quarter.
SLOTS_FULL = 0.9


@dataclass(frozen=True)
class Window:
    """A time in which requests were due at one rate, and the time at which the last of their tasks was waited for."""

    rate: float
    start_ns: int
    end_ns: int
    drained_ns: int


@dataclass(frozen=True)
class Sustained:
    """What a window says; figures of tasks are None where a contender journals none, the CPU's where none was sampled.

    ``backlog_mid`` and ``backlog_end`` are the mean numbers of tasks acknowledged and not ended in the second and in
    the last quarter, ``running_end`` that of tasks running in the last quarter, ``running_most`` the most at once.
    ``cpu_share`` is of all CPUs of the contender, and so is ``others_share``, which is what others used of them;
    ``busiest_share`` is of one CPU, by the one process that used most.
    ``bystander_p95_ms`` is that of the bystanders' route that was worse off.
    ``late_ms`` is how late the generator was (p99): in sending, or in turning its event loop.
    """

    rate: float
    requests: int
    errors: float
    response_p95_ms: float
    done_p95_s: float | None = None
    goodput_per_s: float | None = None
    backlog_mid: float | None = None
    backlog_end: float | None = None
    running_end: float | None = None
    running_most: int | None = None
    cpu_share: float | None = None
    others_share: float = 0.0
    busiest_share: float = 0.0
    bystander_p95_ms: float | None = None
    late_ms: float = 0.0

    def grows(self, window_s: float) -> bool:
        """Return whether the backlog grows."""
        if self.backlog_mid is None or self.backlog_end is None:
            return False
        return self.backlog_end - self.backlog_mid > max(GROWTH_TASKS, GROWTH_SHARE * self.rate * window_s / 2)


REQUESTS = """
    SELECT count(*), count_if(outcome <> 'acknowledged') / greatest(1, count(*)),
           quantile_disc(if(outcome = 'acknowledged', (ended_ns - intended_ns) / 1e6, 'inf'::DOUBLE), 0.95),
           quantile_disc((sent_ns - intended_ns) / 1e6, 0.99)
    FROM read_parquet($requests)
    WHERE stream = 'load' AND phase = 'window' AND intended_ns >= $start_ns AND intended_ns < $end_ns
"""

BYSTANDERS = """
    WITH routes AS (
        SELECT quantile_disc(
            if(outcome = 'acknowledged', (ended_ns - intended_ns) / 1e6, 'inf'::DOUBLE), 0.95) AS p95_ms
        FROM read_parquet($requests)
        WHERE stream = 'bystander' AND phase = 'window' AND intended_ns >= $start_ns AND intended_ns < $end_ns
        GROUP BY route)
    SELECT max(p95_ms) FROM routes
"""

IN_TIME = """
    WITH seen AS (
        SELECT *, coalesce(ended_ns <= $drained_ns, false) AND fate IN $done AS in_time
        FROM read_parquet($tasks) WHERE phase = 'window' AND intended_ns >= $start_ns AND intended_ns < $end_ns)
    SELECT quantile_disc(if(in_time, (ended_ns - intended_ns) / 1e9, 'inf'::DOUBLE), 0.95)
               FILTER (request_outcome = 'acknowledged'),
           count_if(in_time) / greatest(1e-9, ($drained_ns - $start_ns) / 1e9)
    FROM seen
"""

# The mean number of tasks in a state between two moments is how long each was in it there, added up, over the time.
LEVELS = """
    WITH known AS (
        SELECT asked.ended_ns AS acknowledged_ns, started_ns, coalesce(tasks.ended_ns, 9e18::BIGINT) AS ended_ns
        FROM read_parquet($tasks) AS tasks JOIN read_parquet($requests) AS asked USING (request_id)
        WHERE request_outcome = 'acknowledged'),
    changes AS (
        SELECT started_ns AS t_ns, 1 AS change FROM known WHERE started_ns IS NOT NULL
        UNION ALL SELECT ended_ns, -1 FROM known WHERE started_ns IS NOT NULL),
    running AS (SELECT t_ns, sum(change) OVER (ORDER BY t_ns, change ROWS UNBOUNDED PRECEDING) AS level FROM changes)
    SELECT sum(greatest(0, least(ended_ns, $mid_ns) - greatest(acknowledged_ns, $quarter_ns))) / $quarter_length_ns,
           sum(greatest(0, least(ended_ns, $end_ns) - greatest(acknowledged_ns, $last_ns))) / $quarter_length_ns,
           sum(greatest(0, least(ended_ns, $end_ns) - greatest(started_ns, $last_ns)))
               FILTER (started_ns IS NOT NULL) / $quarter_length_ns,
           (SELECT max(level) FROM running WHERE t_ns < $end_ns)
    FROM known
"""

# Of each process, from its first sample in the window to its last.
CPU = """
    WITH used AS (
        SELECT max(cpu_s) - min(cpu_s) AS cpu_s FROM read_parquet($resources)
        WHERE role IN ('api', 'worker', 'broker') AND t_ns BETWEEN $start_ns AND $end_ns GROUP BY role, pid)
    SELECT (SELECT sum(cpu_s) FROM used), (SELECT max(cpu_s) FROM used), (max(t_ns) - min(t_ns)) / 1e9
    FROM read_parquet($resources) WHERE t_ns BETWEEN $start_ns AND $end_ns
"""


def windows(block: BlockRecord) -> Iterator[Window]:
    """Yield the windows of a finished block: those of its ramp, or its own."""
    if block.rate is not None and block.window_start_ns and block.window_end_ns:
        drained_ns = block.drained_ns or block.window_end_ns
        yield Window(block.rate, block.window_start_ns, block.window_end_ns, drained_ns)
    yield from (_window_of(step) for step in block.ramp)


def _window_of(step: RampStep) -> Window:
    return Window(step.rate, step.window_start_ns, step.window_end_ns, step.drained_ns)


def sustained(
    folder: Path, window: Window, journal: bool, cpus: int, loop_lag_ms: float = 0.0, others_share: float = 0.0
) -> Sustained:
    """Return what a window of a settled block says.

    ``cpus`` is how many the contender has, 0 where nobody knows, ``loop_lag_ms`` the generator's (p99),
    ``others_share`` as in Sustained. Raises duckdb.Error where a file of the block is missing or broken.
    """
    requests, tasks, resources = (no_glob(folder / f"{name}.parquet") for name in ("requests", "tasks", "resources"))
    bounds = {"start_ns": window.start_ns, "end_ns": window.end_ns}
    with duckdb.cursor() as db:
        count, errors, response_p95_ms, late_ms = _row(db, REQUESTS, requests=requests, **bounds)
        (bystander_p95_ms,) = _row(db, BYSTANDERS, requests=requests, **bounds)
        done_p95_s = goodput = None
        levels: tuple[float | None, ...] = (None, None, None, None)
        if journal:
            done_p95_s, goodput = _row(db, IN_TIME, tasks=tasks, drained_ns=window.drained_ns, done=DONE, **bounds)
            levels = _row(db, LEVELS, requests=requests, tasks=tasks, **_quarters(window))
        known = cpus and (folder / "resources.parquet").exists()
        cpu_s, busiest_s, sampled_s = _row(db, CPU, resources=resources, **bounds) if known else (None, None, None)
    return Sustained(
        rate=window.rate,
        requests=int(count or 0),
        errors=errors or 0.0,
        response_p95_ms=math.inf if response_p95_ms is None else response_p95_ms,
        done_p95_s=done_p95_s,
        goodput_per_s=goodput,
        backlog_mid=levels[0],
        backlog_end=levels[1],
        running_end=levels[2],
        running_most=None if levels[3] is None else int(levels[3]),
        cpu_share=cpu_s / sampled_s / cpus if cpu_s is not None and sampled_s else None,
        others_share=others_share,
        busiest_share=busiest_s / sampled_s if busiest_s is not None and sampled_s else 0.0,
        bystander_p95_ms=bystander_p95_ms,
        late_ms=max(late_ms or 0.0, loop_lag_ms),
    )


def _row(db: duckdb.DuckDBPyConnection, sql: str, **values: str | int | list[str]) -> tuple[float | None, ...]:
    row = db.execute(sql, values).fetchone()
    assert row is not None
    return row


def _quarters(window: Window) -> dict[str, int]:
    length_ns = max(1, (window.end_ns - window.start_ns) // 4)
    return {
        "quarter_length_ns": length_ns,
        "quarter_ns": window.start_ns + length_ns,
        "mid_ns": window.start_ns + 2 * length_ns,
        "last_ns": window.end_ns - length_ns,
        "end_ns": window.end_ns,
    }


def broken(seen: Sustained, slo: Slo, window_s: float) -> list[str]:
    """Return what of the SLO did not hold, a few words each; empty where all of it did."""
    found = []
    if seen.response_p95_ms > slo.response_p95_ms:
        found.append("response")
    if seen.errors > slo.errors:
        found.append("errors")
    if seen.done_p95_s is not None and seen.done_p95_s > slo.done_p95_s:
        found.append("time to done")
    if seen.grows(window_s):
        found.append("backlog grows")
    return found


def limit_of(seen: Sustained) -> Limit:
    """Return what kept a contender from more in a window in which the SLO did not hold.

    Its slots: as many tasks run as ever did at once, others wait, and the CPU has time left: others leave it some, and
    no process uses a whole one, which more slots in it would not help.
    """
    if seen.cpu_share is not None and seen.cpu_share >= CPU_BUSY:
        return "cpu"
    if not seen.running_most or seen.running_end is None or seen.backlog_end is None or seen.cpu_share is None:
        return "not known"
    if seen.cpu_share + seen.others_share >= CPU_BUSY or seen.busiest_share >= CPU_BUSY:
        return "not known"
    full = seen.running_end >= SLOTS_FULL * seen.running_most
    waiting = seen.backlog_end - seen.running_end
    return "slots" if full and waiting >= max(1.0, 0.1 * seen.running_most) else "not known"


# The blocks of one cell: a contender under a kind of work


def cell(run: RunRecord, contender: str, scenario: str) -> list[BlockRecord]:
    """Return the blocks of a cell that are over, in the order in which they were measured: its ramp comes first."""
    return [
        block
        for block in run.blocks
        if (block.contender, block.scenario) == (contender, scenario) and block.state != "planned"
    ]


def guess(own: list[BlockRecord], begin_at: float) -> float:
    """Return where to look first: where the ramp of a cell ended; where it came to nothing, at the rate it began at."""
    ramp = own[0].ramp if own else []
    return guess_from_ramp(ramp[-1].rate, ramp[-1].held) if ramp else begin_at


def look(directory: RunDir, run: RunRecord, block: BlockRecord) -> list[Sustained]:
    """Return what each window of a finished block says. Raises duckdb.Error where a file of it is missing or broken."""
    contender = next(one for one in run.plan.contenders if one.name == block.contender)
    cpus = len(run.environment.placement.contender)
    lag_ms, others = (block.instrument.get(name, 0.0) for name in ("loop_lag_p99_ms", "others_share"))
    return [
        sustained(directory.block(block), window, contender.journal, cpus, lag_ms, others) for window in windows(block)
    ]


def trials(run: RunRecord, own: list[BlockRecord], seen: Mapping[int, Sequence[Sustained]]) -> list[Trial]:
    """Return what the fresh blocks of a cell say of their rates, in order; ``seen`` is `look` by the block's number."""
    return [
        Trial(block.rate, held(run, block, seen[block.number][0]) if block.valid else None)
        for block in own
        if block.rate is not None
    ]


def held(run: RunRecord, block: BlockRecord, seen: Sustained) -> bool | None:
    """Return whether the SLO held in a valid fresh block; None where it was broken and the generator may be why.

    Beside requests that take for ever no lateness makes a block void, but the SLO has a limit to measure it by.
    """
    slo = run.plan.slo or Slo()
    if not broken(seen, slo, window_s(run, block)):
        return True
    return False if seen.late_ms <= max(LATE_MS, LATE_SHARE * slo.response_p95_ms) else None


def window_s(run: RunRecord, block: BlockRecord) -> float:
    """Return the seconds of the measured window of a fresh block."""
    return next(scenario.duration_s for scenario in run.plan.scenarios if scenario.name == block.scenario)
