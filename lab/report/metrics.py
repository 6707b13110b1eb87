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
from lab.report import crossover, words
from lab.report.backlog import EVERY_S, BlockBacklog
from lab.report.beside import Waited
from lab.report.capacity import capacities
from lab.report.measure import BlockMeasures, Row, measure
from lab.report.summary import (
    Backlog,
    BlockFigures,
    Broker,
    Bystander,
    Calibration,
    Cell,
    Comparison,
    Contender,
    Fate,
    FaultBystander,
    FaultFigures,
    Resources,
    RouteFigures,
    Share,
    Spread,
    Summary,
)
from lab.rundir import CALIBRATIONS, BlockRecord, Plan, RunDir, RunRecord

PRIMARY = ["response_p95_ms", "done_p95_ms"]
SECONDARY = ["response_p50_ms", "done_p50_ms"]
BYSTANDER = "bystander_p95_ms"
OF_EACH_BYSTANDER = ["response_p50_ms", "response_p95_ms"]
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
    blocks = finished(directory, run)
    # Blocks of a search differ in their rate: there is no figure over several of them.
    valid = [block for block in blocks if block.record.valid and run.plan.slo is None]
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
        limitations=[*words.limitations(run, calibration), *words.untold(run, _pending(run, valid))],
        sentences=[],
        routes=list(_routes(run, rounds)),
        bystanders=list(_bystanders(run, valid)),
        resources=list(_resources(run, rounds)),
        brokers=list(_brokers(run, rounds)),
        backlogs=list(_backlogs(run, valid)),
        shares=list(_shares(run, valid)),
        faults=list(_faults(run, valid)),
        fault_bystanders=list(_fault_bystanders(run, valid)),
        comparisons=comparisons,
        cells=list(_grid(run)),
        slo=run.plan.slo,
        capacities=capacities(directory, run),
        blocks=[_block(b, blocks) for b in run.blocks],
        calibration=calibration,
    )
    return summary.model_copy(update={"sentences": crossover.sentences(summary) + words.sentences(summary)})


def _pending(run: RunRecord, blocks: list[Measured]) -> dict[str, int]:
    """Return how many tasks of each contender were pending at the end of their blocks."""
    return {
        contender.name: sum(
            row["count"]
            for block in blocks
            if block.record.contender == contender.name
            for row in block.figures.fates
            if row["fate"] == "pending"
        )
        for contender in run.plan.contenders
    }


def finished(directory: RunDir, run: RunRecord) -> list[Measured]:
    """Return the finished blocks of a run, void ones too, each with its figures."""
    return [Measured(b, measure(directory.block(b), b)) for b in run.blocks if b.state == "finished"]


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


def _cells(
    run: RunRecord, blocks: list[Measured], whole_grids: bool = False
) -> Iterator[tuple[str, str, list[Measured]]]:
    """Yield scenario, contender and its blocks, in the order of the plan; without those that have none.

    Of a grid each cell, or all cells together under its name.
    """
    loads = {load.name: load.grid if whole_grids and load.grid else load.name for load in run.plan.scenarios}
    for scenario in dict.fromkeys(loads.values()):
        for contender in run.plan.contenders:
            names = (scenario, contender.name)
            found = [block for block in blocks if (loads[block.record.scenario], block.record.contender) == names]
            if found:
                yield *names, found


def _grid(run: RunRecord) -> Iterator[Cell]:
    for load in run.plan.scenarios:
        if load.grid and load.probe_work and load.probe_seconds is not None:
            yield Cell(
                grid=load.grid,
                scenario=load.name,
                probe_work=load.probe_work,
                probe_seconds=load.probe_seconds,
                rate=load.rate,
            )


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


def _under_faults(
    run: RunRecord, blocks: list[Measured], whole_grids: bool = False
) -> Iterator[tuple[str | None, str, str, list[Measured]]]:
    """Yield fault, scenario, contender and its blocks: those of the rounds, without a fault, come first."""
    for fault in [None, *run.plan.faults]:
        for cell in _cells(run, [block for block in blocks if block.record.fault == fault], whole_grids):
            yield fault, *cell


def _bystanders(run: RunRecord, blocks: list[Measured]) -> Iterator[Bystander]:
    for fault, scenario, contender, own in _under_faults(run, blocks):
        for route in _keys(block.figures.bystanders for block in own):
            rows = [block.figures.bystanders[route] for block in own if route in block.figures.bystanders]
            yield Bystander(
                contender=contender,
                scenario=scenario,
                fault=fault,
                route=route,
                requests=sum(row["requests"] for row in rows),
                acknowledged=sum(row["acknowledged"] for row in rows),
                response_p50_ms=spread(row["response_p50_ms"] for row in rows),
                response_p95_ms=spread(row["response_p95_ms"] for row in rows),
            )


def _resources(run: RunRecord, blocks: list[Measured]) -> Iterator[Resources]:
    for scenario, contender, own in _cells(run, blocks):
        for role in _keys(block.figures.roles for block in own):
            known = [block.figures for block in own if role in block.figures.roles]
            yield Resources(
                contender=contender,
                scenario=scenario,
                role=role,
                cpu_s=spread(figures.roles[role]["cpu_s"] for figures in known),
                cpu_s_per_1000_done=spread(_per_1000(figures.roles[role]["cpu_s"], figures) for figures in known),
                peak_memory_bytes=spread(figures.roles[role]["peak_bytes"] for figures in known),
            )


def _brokers(run: RunRecord, blocks: list[Measured]) -> Iterator[Broker]:
    with_broker = {contender.name for contender in run.plan.contenders if contender.broker}
    for scenario, contender, own in _cells(run, blocks):
        if contender in with_broker:
            used = [(block.figures.broker, block.figures) for block in own]
            yield Broker(
                contender=contender,
                scenario=scenario,
                peak_used_bytes=spread(broker.memory_bytes for broker, _ in used if broker),
                net_bytes=spread(broker.net_bytes for broker, _ in used if broker),
                net_bytes_per_1000_done=spread(_per_1000(b.net_bytes, figures) for b, figures in used if b),
            )


def _per_1000(used: float, figures: BlockMeasures) -> float | None:
    """Return how much of something was used for every 1,000 tasks done; None where none was."""
    return used / figures.done * 1000 if figures.done else None


def _backlogs(run: RunRecord, blocks: list[Measured]) -> Iterator[Backlog]:
    """Yield the rounds of each contender together, and each block with a fault, whose injections are its own."""
    journaled = {contender.name for contender in run.plan.contenders if contender.journal}
    for fault, scenario, contender, own in _under_faults(run, blocks):
        if contender in journaled:
            for together in [own] if fault is None else [[block] for block in own]:
                number = together[0].record.number if fault else None
                yield _backlog([block.figures.backlog for block in together], contender, scenario, fault, number)


def _backlog(own: list[BlockBacklog], contender: str, scenario: str, fault: str | None, number: int | None) -> Backlog:
    """Return backlogs put together; one that was drained sooner stays where it was then."""
    moments = max(len(one.tasks) for one in own)
    levels = list(zip(*(one.tasks + one.tasks[-1:] * (moments - len(one.tasks)) for one in own), strict=True))
    return Backlog(
        contender=contender,
        scenario=scenario,
        fault=fault,
        block=number,
        largest=spread(max(one.tasks) for one in own),
        at_window_end=spread(one.at_window_end for one in own),
        window_s=max(one.window_s for one in own),
        injected_s=sorted(at_s for one in own for at_s in one.injected_s),
        every_s=EVERY_S,
        median=[stats.median(level) for level in levels],
        low=[min(level) for level in levels],
        high=[max(level) for level in levels],
    )


def _shares(run: RunRecord, blocks: list[Measured]) -> Iterator[Share]:
    for fault, scenario, contender, own in _under_faults(run, blocks, whole_grids=True):
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


def _fault_bystanders(run: RunRecord, blocks: list[Measured]) -> Iterator[FaultBystander]:
    for fault in run.plan.faults:
        for scenario, contender, own in _cells(run, [block for block in blocks if block.record.fault == fault]):
            for route in sorted({route for block in own for route, _ in block.figures.beside_faults}):
                before, during = (_waited(own, route, on) for on in (False, True))
                yield FaultBystander(
                    contender=contender,
                    scenario=scenario,
                    fault=fault,
                    route=route,
                    requests_before=sum(count for count, _, _ in before),
                    before_p50_ms=spread(p50_ms for _, p50_ms, _ in before),
                    before_p95_ms=spread(p95_ms for _, _, p95_ms in before),
                    requests=sum(count for count, _, _ in during),
                    response_p50_ms=spread(p50_ms for _, p50_ms, _ in during),
                    response_p95_ms=spread(p95_ms for _, _, p95_ms in during),
                )


def _waited(blocks: list[Measured], route: str, during: bool) -> list[Waited]:
    """Return how long one bystander waited in each block, while a fault was on or before."""
    found = [block.figures.beside_faults.get((route, during)) for block in blocks]
    return [waited for waited in found if waited]


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
    bystander: bool = False

    @property
    def primary(self) -> bool:
        return self.metric == BYSTANDER or (not self.bystander and self.route == "all" and self.metric in PRIMARY)


def _compare(run: RunRecord, blocks: list[Measured]) -> list[Comparison]:
    """Return all comparisons; the primary ones are judged together, unless the run gives no verdicts.

    A run of faults alone has no rounds, and compares no times; nor does a calibration.
    """
    if not run.plan.rounds or run.plan.command in CALIBRATIONS:
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
            one, another = ([b for b in own if b.record.contender == name] for name in (baseline, other))
            for route in routes:
                for metric in PRIMARY + SECONDARY:
                    if metric.startswith("done") and not {baseline, other} <= journaled:
                        continue
                    rounds, figures = paired(one, another, route, metric, run.plan.rounds)
                    if rounds or (route == "all" and metric in PRIMARY):
                        yield _Pair(scenario.name, route, metric, baseline, other, rounds, figures)
            for route in _keys(block.figures.bystanders for block in own):
                for metric in OF_EACH_BYSTANDER:
                    rounds, figures = paired(one, another, route, metric, run.plan.rounds, bystander=True)
                    if rounds:
                        yield _Pair(scenario.name, route, metric, baseline, other, rounds, figures, bystander=True)
            if scenario.grid and scenario.bystanders:
                found = paired(one, another, "bystanders", BYSTANDER, run.plan.rounds, bystander=True)
                yield _Pair(scenario.name, "bystanders", BYSTANDER, baseline, other, *found, bystander=True)


def paired(
    baseline: list[Measured], other: list[Measured], route: str, metric: str, planned: int, bystander: bool = False
) -> tuple[list[int], stats.Paired]:
    """Return the rounds in which both have the figure, and the figures."""
    sides = [_by_round(blocks, route, metric, bystander) for blocks in (baseline, other)]
    rounds = sorted(sides[0].keys() & sides[1].keys())
    figures = [[side[number] for number in rounds] for side in sides]
    return rounds, stats.Paired(figures[0], figures[1], planned)


def _by_round(blocks: list[Measured], route: str, metric: str, bystander: bool) -> dict[int, float]:
    figures = {block.record.round: _figure(block.figures, route, metric, bystander) for block in blocks}
    return {number: figure for number, figure in figures.items() if figure is not None}


def _figure(block: BlockMeasures, route: str, metric: str, bystander: bool) -> float | None:
    """Return a figure of a block, of a route or of a bystander; ``BYSTANDER`` is that of the one worse off."""
    if metric == BYSTANDER:
        return max((row["response_p95_ms"] for row in block.bystanders.values()), default=None)
    rows = block.bystanders if bystander else block.routes
    figure: float | None = rows.get(route, {}).get(metric)
    return figure


def _comparison(pair: _Pair, judgement: stats.Judgement | None, why_not: str) -> Comparison:
    ratio = judgement.ratio if judgement else stats.paired_ratio(pair.paired.ratios())
    return Comparison(
        scenario=pair.scenario,
        route=pair.route,
        metric=pair.metric,
        bystander=pair.bystander,
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
        **record.model_dump(
            include={"number", "round", "contender", "scenario", "fault", "rate", "state", "valid", "why"}
        ),
        lateness_p99_ms=everything.get("lateness_p99_ms"),
        unsent=everything.get("unsent"),
        loop_lag_p99_ms=record.instrument.get("loop_lag_p99_ms"),
        steal_share=record.instrument.get("steal_share"),
        others_share=record.instrument.get("others_share"),
    )
