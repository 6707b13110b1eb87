"""What the lab reports of a server whose latency is known, beside the truth by the schedule and the server's rule."""

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

import duckdb

from lab.known_servers import fate
from lab.report.measure import measure as figures_of
from lab.report.summary import KnownServer, Latency
from lab.rundir import BlockRecord, ContenderRecord, ScenarioRecord
from lab.stats import percentile

TOLERANCE = 0.02
TOLERANCE_MS = 1.0
JUDGED = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}
FOR_THE_EYE = {"p999_ms": 0.999}


def beside_the_truth(
    folder: Path, block: BlockRecord, scenario: ScenarioRecord, contender: ContenderRecord, closed_loop: Latency
) -> KnownServer:
    """Return what the lab reports of a known server's block beside the truth, and what a closed loop reported of it.

    The scenario's arrivals are constant: the truth rests on them, not on the times in the samples.
    """
    rows = _window(folder / "requests.parquet")
    planned = round(scenario.rate * scenario.duration_s)
    due_ns = [(block.window_start_ns or 0) + round(number / scenario.rate * 1e9) for number in range(planned)]
    fates = [fate(contender.name, row[0], at_ns / 1e9) for row, at_ns in zip(rows, due_ns, strict=False)]
    outcomes = [found.outcome for found in fates]
    times_ms = [found.after_s * 1e3 if found.outcome == "acknowledged" else math.inf for found in fates]
    truth = _latency(times_ms)
    figures = figures_of(folder, block).routes["all"]
    seen_ms = [(row[3] - row[2]) / 1e6 if row[1] == "acknowledged" else math.inf for row in rows]
    lab = Latency(**{name: figures[f"response_{name}"] for name in JUDGED}, p999_ms=percentile(seen_ms, 0.999))
    return KnownServer(
        server=contender.name,
        title=contender.title,
        requests=planned,
        truth=truth,
        lab=lab,
        closed_loop=closed_loop,
        outcomes=dict(Counter(outcomes)),
        wrong=[f"{contender.name}: {sentence}" for sentence in wrong(truth, lab)]
        + _wrong_rows(contender.name, planned, outcomes, [row[1] for row in rows]),
    )


def _window(requests: Path) -> list[tuple[UUID, str, int, int]]:
    """Return id, outcome, intended and ended of each request of the window, in the order of the schedule."""
    return duckdb.execute(
        "SELECT request_id::UUID, outcome, intended_ns, ended_ns FROM read_parquet($requests) "
        "WHERE phase = 'window' ORDER BY seq",
        {"requests": str(requests)},
    ).fetchall()


def _latency(times_ms: list[float]) -> Latency:
    return Latency(**{name: percentile(times_ms, share) for name, share in (JUDGED | FOR_THE_EYE).items()})


def wrong(truth: Latency, reported: Latency) -> list[str]:
    """Return which percentiles are off by more than 2 % and more than 1 ms, one sentence each."""
    pairs = [(name, getattr(truth, name), getattr(reported, name)) for name in JUDGED]
    return [
        f"{name.removesuffix('_ms')} is {_shown(seen)} and should be {_shown(true)}."
        for name, true, seen in pairs
        if not _within(true, seen)
    ]


def _within(true: float, seen: float | None) -> bool:
    if seen is None or math.isinf(true) or math.isinf(seen):
        return seen == true
    return abs(seen - true) <= max(TOLERANCE_MS, TOLERANCE * true)


def _shown(figure: float | None) -> str:
    return "missing" if figure is None else "infinite" if math.isinf(figure) else f"{figure:.1f} ms"


def _wrong_rows(name: str, planned: int, true: Iterable[str], seen: list[str]) -> list[str]:
    """Return whether requests are missing, or ended otherwise than the server has it."""
    if len(seen) != planned:
        return [f"{name}: {len(seen):,} requests are in the samples, and {planned:,} were intended."]
    other = sum(one != another for one, another in zip(true, seen, strict=True))
    return [f"{name}: {other:,} requests have another outcome than the server gave them."] if other else []
