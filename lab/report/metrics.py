"""From the blocks of a run to its summary: figures, shares and comparisons."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

from lab import stats
from lab.errors import LabError
from lab.report import words
from lab.report.measure import BlockMeasures, Row, measure
from lab.report.summary import (
    BlockFigures,
    Bystander,
    Calibration,
    Comparison,
    Contender,
    Fate,
    FaultFigures,
    Resources,
    RouteFigures,
    Share,
    Spread,
    Summary,
)
from lab.rundir import BlockRecord, Plan, RunDir, RunRecord

PRIMARY = ["response_p95_ms", "done_p95_ms"]
SECONDARY = ["response_p50_ms", "done_p50_ms"]
NOT_PRIMARY = "no primary metric: an interval and no verdict"
COUNTS = ["requests", "acknowledged", "refused", "indeterminate", "unsent", "timed_out", "tasks"]
SPREADS = [name for name, field in RouteFigures.model_fields.items() if field.annotation is Spread]


@dataclass(frozen=True)
class Measured:
    """A finished block and its figures."""

    record: BlockRecord
    figures: BlockMeasures


def summarise(run_dir: Path) -> Summary:
    """Return the summary of a run directory, of whatever is finished in it. Raises as `RunDir.read` does.

    Raises LabError where the calibration beside it cannot be read.
    """
    directory = RunDir(run_dir)
    run = directory.read()
    blocks = [Measured(b, measure(directory.block(b), b)) for b in run.blocks if b.state == "finished"]
    valid = [block for block in blocks if block.record.valid]
    rounds = [block for block in valid if block.record.fault is None]
    comparisons, calibration = _compare(run, rounds), _calibration(run_dir / "calibration.json")
    summary = Summary(
        run=run_dir.resolve().name,
        command=run.plan.command,
        reproduce=words.reproduce(run.plan),
        seed=run.plan.seed,
        quick=run.plan.quick,
        interrupted=run.interrupted,
        rounds_planned=run.plan.rounds,
        horizon_s=run.plan.horizon_s,
        grace_s=run.plan.grace_s,
        contenders=[Contender(name=c.name, title=c.title, slots=c.slots) for c in run.plan.contenders],
        limitations=words.limitations(run, calibration),
        sentences=[],
        routes=list(_routes(run, rounds)),
        bystanders=list(_bystanders(run, rounds)),
        resources=list(_resources(run, rounds)),
        shares=list(_shares(run, valid)),
        faults=list(_faults(run, valid)),
        comparisons=comparisons,
        blocks=[_block(b, blocks) for b in run.blocks],
        calibration=calibration,
    )
    return summary.model_copy(update={"sentences": words.sentences(summary)})


def _calibration(file: Path) -> Calibration | None:
    """Return the calibration beside a run. Raises LabError where it cannot be read."""
    try:
        return Calibration.model_validate_json(file.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise LabError(f"{file} cannot be read: {str(error).splitlines()[0]}.") from error


def spread(figures: Iterable[float | None]) -> Spread:
    """Return the median, smallest and largest of the figures that there are."""
    known = [figure for figure in figures if figure is not None]
    if not known:
        return Spread()
    infinite = known.count(math.inf)
    return Spread(median=stats.median(known), low=min(known), high=max(known), blocks=len(known), infinite=infinite)


def _cells(run: RunRecord, blocks: list[Measured]) -> Iterator[tuple[str, str, list[Measured]]]:
    """Yield scenario, contender and its blocks, in the order of the plan; without those that have none."""
    for scenario in run.plan.scenarios:
        for contender in run.plan.contenders:
            names = (scenario.name, contender.name)
            found = [block for block in blocks if (block.record.scenario, block.record.contender) == names]
            if found:
                yield *names, found


def _keys(dicts: Iterable[dict[str, Any]]) -> list[str]:
    """Return every key once, sorted, with ``all`` in front."""
    return sorted({key for one in dicts for key in one}, key=lambda key: (key != "all", key))


def _routes(run: RunRecord, blocks: list[Measured]) -> Iterator[RouteFigures]:
    for scenario, contender, own in _cells(run, blocks):
        for route in _keys(block.figures.routes for block in own):
            rows = [block.figures.routes[route] for block in own if route in block.figures.routes]
            fates: Counter[Fate] = Counter()
            for row in rows:
                fates.update(row.get("fates", {}))
            yield RouteFigures.model_validate(
                {"contender": contender, "scenario": scenario, "route": route}
                | {"fates": {fate: fates[fate] for fate in get_args(Fate)}}
                | {name: sum(row.get(name, 0) for row in rows) for name in COUNTS}
                | {name: spread(row.get(name) for row in rows) for name in SPREADS}
            )


def _bystanders(run: RunRecord, blocks: list[Measured]) -> Iterator[Bystander]:
    for scenario, contender, own in _cells(run, blocks):
        for route in _keys(block.figures.bystanders for block in own):
            rows = [block.figures.bystanders[route] for block in own if route in block.figures.bystanders]
            yield Bystander(
                contender=contender,
                scenario=scenario,
                route=route,
                requests=sum(row["requests"] for row in rows),
                response_p50_ms=spread(row["response_p50_ms"] for row in rows),
                response_p95_ms=spread(row["response_p95_ms"] for row in rows),
            )


def _resources(run: RunRecord, blocks: list[Measured]) -> Iterator[Resources]:
    for scenario, contender, own in _cells(run, blocks):
        for role in _keys(block.figures.roles for block in own):
            known = [block for block in own if role in block.figures.roles]
            yield Resources(
                contender=contender,
                scenario=scenario,
                role=role,
                cpu_s_per_1000_done=spread(_cpu_per_1000(block.figures, role) for block in known),
                peak_memory_bytes=spread(block.figures.roles[role]["peak_bytes"] for block in known),
            )


def _cpu_per_1000(figures: BlockMeasures, role: str) -> float | None:
    done = sum(row["count"] for row in figures.fates if row["fate"] in ("done", "duplicated", "recovered"))
    return figures.roles[role]["cpu_s"] / done * 1000 if done else None


def _shares(run: RunRecord, blocks: list[Measured]) -> Iterator[Share]:
    for fault in [None, *run.plan.faults]:
        for scenario, contender, own in _cells(run, [block for block in blocks if block.record.fault == fault]):
            counts: Counter[tuple[str, Fate]] = Counter()
            for row in (row for block in own for row in block.figures.fates):
                counts[row["request_outcome"], row["fate"]] += row["count"]
            for (outcome, fate), count in sorted(counts.items(), key=lambda item: _fate_order(*item[0])):
                of = sum(n for (other, _), n in counts.items() if other == outcome)
                low, high = stats.wilson(count, of)
                yield Share.model_validate(
                    {"contender": contender, "scenario": scenario, "fault": fault, "request_outcome": outcome}
                    | {"fate": fate, "count": count}
                    | ({"of": None, "low": None, "high": None} if outcome == "none" else {})
                    | ({"of": of, "low": low, "high": high} if outcome != "none" else {})
                )


def _faults(run: RunRecord, blocks: list[Measured]) -> Iterator[FaultFigures]:
    for fault in run.plan.faults:
        for scenario, contender, own in _cells(run, [block for block in blocks if block.record.fault == fault]):
            rows = [row for block in own for row in block.figures.fates]
            told = [row for row in rows if row["request_outcome"] == "acknowledged"]
            recoveries_s = [seconds for block in own for seconds in block.figures.recoveries_s]
            yield FaultFigures(
                contender=contender,
                scenario=scenario,
                fault=fault,
                injections=len(recoveries_s),
                tasks=sum(block.figures.routes.get("all", {}).get("tasks", 0) for block in own),
                fates=_add_up(told),
                fates_without_a_yes=_add_up(row for row in rows if row not in told),
                ready_s=spread(seconds for block in own for seconds in block.figures.ready_s),
                back_to_normal_s=spread(recoveries_s),
            )


def _add_up(rows: Iterable[Row]) -> dict[Fate, int]:
    """Return how many tasks of these had each fate."""
    counts: Counter[Fate] = Counter()
    for row in rows:
        counts[row["fate"]] += row["count"]
    return {fate: counts[fate] for fate in get_args(Fate)}


def _fate_order(outcome: str, fate: Fate) -> tuple[int, int]:
    return ["acknowledged", "indeterminate", "none"].index(outcome), get_args(Fate).index(fate)


@dataclass(frozen=True)
class _Pair:
    """One comparison before it is judged."""

    scenario: str
    route: str
    metric: str
    baseline: str
    other: str
    rounds: list[int]
    paired: stats.Paired

    @property
    def primary(self) -> bool:
        return self.route == "all" and self.metric in PRIMARY


def _compare(run: RunRecord, blocks: list[Measured]) -> list[Comparison]:
    """Return all comparisons; the primary ones are judged together, unless the run gives no verdicts.

    A run of faults alone has no rounds, and compares no times; nor does a calibration.
    """
    if not run.plan.rounds or run.plan.command == "calibrate":
        return []
    pairs = list(_pairs(run, blocks))
    primary = [pair for pair in pairs if pair.primary and not _without_verdict(run.plan)]
    judged = stats.judge_all([pair.paired for pair in primary])
    why = f"{_without_verdict(run.plan)} gives no verdict"
    return [_comparison(pair, judged[primary.index(pair)] if pair in primary else None, why) for pair in pairs]


def _without_verdict(plan: Plan) -> str | None:
    """Return what kind of run gives no verdict on anything, None where it may."""
    return "a quick run" if plan.quick else "an exploratory run" if plan.exploratory else None


def _pairs(run: RunRecord, blocks: list[Measured]) -> Iterator[_Pair]:
    journaled = {contender.name for contender in run.plan.contenders if contender.journal}
    for scenario in run.plan.scenarios:
        own = [block for block in blocks if block.record.scenario == scenario.name]
        routes = _keys(block.figures.routes for block in own) or ["all"]
        for baseline, other in combinations([c.name for c in run.plan.contenders], 2):
            for route in routes:
                for metric in PRIMARY + SECONDARY:
                    if metric.startswith("done") and not {baseline, other} <= journaled:
                        continue
                    rounds, paired = _paired(own, baseline, other, route, metric, run.plan.rounds)
                    if rounds or (route == "all" and metric in PRIMARY):
                        yield _Pair(scenario.name, route, metric, baseline, other, rounds, paired)


def _paired(
    blocks: list[Measured], baseline: str, other: str, route: str, metric: str, planned: int
) -> tuple[list[int], stats.Paired]:
    """Return the rounds in which both have the figure, and the figures."""
    by_round: dict[str, dict[int, float]] = {baseline: {}, other: {}}
    for block in blocks:
        figure = block.figures.routes.get(route, {}).get(metric)
        if block.record.contender in by_round and figure is not None:
            by_round[block.record.contender][block.record.round] = figure
    rounds = sorted(by_round[baseline].keys() & by_round[other].keys())
    figures = [[by_round[name][number] for number in rounds] for name in (baseline, other)]
    return rounds, stats.Paired(figures[0], figures[1], planned)


def _comparison(pair: _Pair, judgement: stats.Judgement | None, why_not: str) -> Comparison:
    ratio = judgement.ratio if judgement else stats.paired_ratio(pair.paired.ratios())
    return Comparison(
        scenario=pair.scenario,
        route=pair.route,
        metric=pair.metric,
        primary=pair.primary,
        baseline=pair.baseline,
        other=pair.other,
        baseline_figure=spread(pair.paired.baseline).median,
        other_figure=spread(pair.paired.other).median,
        rounds=pair.rounds,
        ratios=[None if value != value else value for value in pair.paired.ratios()],
        ratio=ratio.mean if ratio else None,
        low=ratio.low if ratio else None,
        high=ratio.high if ratio else None,
        p=judgement.p if judgement else None,
        verdict=judgement.verdict if judgement else None,
        reason=judgement.reason if judgement else why_not if pair.primary else NOT_PRIMARY,
    )


def _block(record: BlockRecord, measured: list[Measured]) -> BlockFigures:
    figures = next((block.figures for block in measured if block.record is record), None)
    everything = figures.routes.get("all", {}) if figures else {}
    return BlockFigures(
        **record.model_dump(include={"number", "round", "contender", "scenario", "fault", "state", "valid", "why"}),
        lateness_p99_ms=everything.get("lateness_p99_ms"),
        unsent=everything.get("unsent"),
        loop_lag_p99_ms=record.instrument.get("loop_lag_p99_ms"),
        steal_share=record.instrument.get("steal_share"),
    )
