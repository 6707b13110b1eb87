"""The result of a search for capacities, from the blocks of its run directory."""

from typing import Literal

from lab import stats
from lab.capacity import Interval, interval, least_rate, next_rate
from lab.report.summary import Capacity, CapacityPoint
from lab.rundir import BlockRecord, RunDir, RunRecord, Slo
from lab.sustained import Limit, Sustained, broken, cell, held, limit_of, look, trials, window_s
from lab.validity import by_generator


def capacities(directory: RunDir, run: RunRecord) -> list[Capacity]:
    """Return what is known of each cell, in the order of the search; nothing for any other kind of run."""
    if run.plan.slo is None:
        return []
    return [
        _capacity(directory, run, (contender.name, scenario.name), least_rate(scenario.duration_s))
        for scenario in run.plan.scenarios
        for contender in run.plan.contenders
    ]


def _capacity(directory: RunDir, run: RunRecord, name: tuple[str, str], least: float) -> Capacity:
    own = cell(run, *name)
    seen = {block.number: look(directory, run, block) for block in own if block.state == "finished"}
    tried = trials(run, own, seen)
    found = interval(tried)
    exhausted = bool(tried) and next_rate(tried, 0, least) is None
    at_high = [
        seen[block.number][0]
        for block in own
        if block.rate is not None
        and block.rate == found.high
        and block.valid
        and held(run, block, seen[block.number][0]) is not None
    ]
    return Capacity(
        contender=name[0],
        scenario=name[1],
        low=found.low,
        high=found.high,
        low_blocks=sum(trial.rate == found.low for trial in tried if trial.held is not None),
        high_blocks=len(at_high),
        undecided=found.undecided,
        not_measured=found.blind,
        limit=_limit(found, own, at_high, exhausted),
        cpu_share=_median([one.cpu_share for one in at_high]),
        running_at_once=_median([one.running_end for one in at_high]),
        ended=_ended(own, exhausted, over=name in run.searched),
        curve=sorted(_curve(run, own, seen), key=lambda point: (point.rate, point.block)),
    )


def _limit(found: Interval, own: list[BlockRecord], at_high: list[Sustained], exhausted: bool) -> Limit:
    """Return what was the limit in all blocks at the high end; where there is none, whether the generator was.

    It was where nothing else has ended the search, neither the time nor rates that held once and failed once.
    """
    if found.high is None and (found.undecided or not exhausted):
        return "not known"
    if found.high is None:
        blind = [block for block in own if block.rate in found.blind]
        return "generator" if any(block.valid or by_generator(block.why) for block in blind) else "not known"
    limits = {limit_of(one) for one in at_high}
    return limits.pop() if len(limits) == 1 else "not known"


def _median(figures: list[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return stats.median(known) if known else None


def _ended(own: list[BlockRecord], exhausted: bool, over: bool) -> Literal["narrow", "interrupted", "failed", "time"]:
    if exhausted:
        return "narrow"
    if not over:
        return "interrupted"
    return "failed" if own and all(block.state == "failed" for block in own) else "time"


def _curve(run: RunRecord, own: list[BlockRecord], seen: dict[int, list[Sustained]]) -> list[CapacityPoint]:
    return [_point(run, run.plan.slo or Slo(), block, one) for block in own for one in seen.get(block.number, [])]


def _point(run: RunRecord, slo: Slo, block: BlockRecord, one: Sustained) -> CapacityPoint:
    """Return what one window shows; a ramp's has no verdict, nor has one that decides nothing."""
    fresh = block.rate is not None
    decides = fresh and block.valid and held(run, block, one) is not None
    return CapacityPoint(
        block=block.number,
        rate=one.rate,
        fresh=fresh,
        valid=bool(block.valid),
        broken=broken(one, slo, window_s(run, block)) if decides else None,
        requests=one.requests,
        errors=one.errors,
        response_p95_ms=one.response_p95_ms,
        done_p95_s=one.done_p95_s,
        goodput_per_s=one.goodput_per_s,
        backlog_mid=one.backlog_mid,
        backlog_end=one.backlog_end,
        running_at_once=one.running_end,
        cpu_share=one.cpu_share,
        bystander_p95_ms=one.bystander_p95_ms,
    )
