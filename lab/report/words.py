"""The report in words: how a figure is printed, what limits the numbers, and what they mean."""

import math
import shlex
from collections.abc import Iterable, Mapping

from lab.history import DUE_AGAIN
from lab.report.summary import (
    AgainstItself,
    Backlog,
    Bystander,
    Calibration,
    Capacity,
    Compared,
    Comparison,
    Fate,
    FaultFigures,
    Generator,
    RouteFigures,
    Share,
    Spread,
    Summary,
)
from lab.rundir import CALIBRATE_AA, CALIBRATIONS, GRACE_S, BlockRecord, Plan, RunRecord, ScenarioRecord, Slo
from lab.scenario import choices

NONE = "–"
BEYOND_HORIZON = "> horizon"
# So many blocks that are missing are named one by one.
MOST_NAMED = 20
# Of the contender's CPUs, used by others: above this it is said.
CROWDED = 0.05
NOT_KNOWN = "not known: the lab did not start the contenders"

HOW_TO_READ = [
    "Requests arrive at times that were drawn beforehand and do not wait for answers (open loop). Response time counts "
    "from the intended time; service time, from the moment of sending, is what a closed loop would have said.",
    "Every intended request counts. One that was refused, reset, timed out or never sent counts as infinitely slow: "
    "“failed”, or “> 10 s” where all of these timed out. A task that never ended counts the same way: "
    f"“{BEYOND_HORIZON}”. So does one that ended only after the horizon, in the time that its process got to stop.",
    "A contender's figure is the median over its valid blocks; in brackets the smallest and the largest block. p99 is "
    "given for blocks of at least 1,000 requests.",
    "A ratio is the first contender's figure divided by the second's in the same round: below 1 is less time. Its "
    "interval is a 95 % t-interval over the rounds. A verdict is given on the primary figures only (p95 of response "
    "time and of time to done, every route together; in a crossover map also of bystanders), with Holm's correction "
    "over all verdicts of the run: an interval that just misses 1 may still be “no significant difference”.",
    "Lost: acknowledged, never executed to its end, and nothing holds it any more. Stranded: a worker took it and "
    f"never acknowledged it; {DUE_AGAIN}. Recovered: done although its request "
    "never got a yes. Unexpected: done although its request was refused or never made.",
    "A request is disturbed by a fault if it got no yes, or its work was not done, or either took longer than three "
    "times the p95 of before the faults and longer than 250 ms. A contender is back to normal at the last disturbed "
    "request before a second without one; “never” is not before the next fault.",
    "Backlog: tasks acknowledged and not ended, from the moment of the yes. One that was lost never leaves it.",
    "A void block is one in which the instrument or a shared server was at fault. It takes no part in any figure. What "
    "a contender does wrong is its result and voids nothing.",
]


def number(value: float) -> str:
    """Return a number with about three significant digits and thousands separated: 0.123, 1.23, 12.3, 1,234."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.{1 if abs(value) >= 10 else 2}f}"


def milliseconds(value: float | None, infinite: str, unit: str = " ms") -> str:
    """Return a time for people; ``infinite`` is what to print for a figure that never came."""
    if value is None:
        return NONE
    return infinite if value == math.inf else number(value) + unit


def seconds(duration_s: float) -> str:
    """Return a duration without needless digits."""
    return f"{duration_s:g} s"


def after(times_s: Spread) -> str:
    """Return in a few characters how long something took, in s: the median over the injections of a fault.

    Where that is infinite, in how many of them it happened at all.
    """
    if times_s.median is None:
        return NONE
    if times_s.median < math.inf:
        return f"{times_s.median:.1f}"
    reached = times_s.blocks - times_s.infinite
    return f"in {reached} of {times_s.blocks}" if reached else "never"


def rates(loads: list[ScenarioRecord]) -> str:
    """Return what a scenario sends, or a grid: ``20 requests/s``, ``2, 8 requests/s of io, cpu for 0.5, 5 s``."""
    sent = f"{_each(f'{load.rate:g}' for load in loads)} requests/s"
    if not loads[0].grid:
        return sent
    works, times = _each(str(load.probe_work) for load in loads), _each(f"{load.probe_seconds:g}" for load in loads)
    return f"{len(loads)} cells: {sent} of {works} for {times} s"


def _each(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))


def percent(share: float) -> str:
    """Return a share with at least two significant digits where it is small."""
    return f"{share * 100:.2g} %" if share < 0.1 else f"{share * 100:.1f} %"


def megabytes(value: float | None) -> str:
    """Return bytes as MB."""
    return NONE if value is None else f"{value / 1e6:,.0f} MB"


def kilobytes(figure: Spread) -> str:
    """Return bytes as kB, with their range where there are several blocks."""
    sizes = {name: value and value / 1e3 for name, value in figure if name in ("median", "low", "high")}
    return with_range(figure.model_copy(update=sizes))


def failed(row: RouteFigures) -> str:
    """Return how to print an infinite response time of this row."""
    not_acknowledged = row.requests - row.acknowledged
    return "> 10 s" if not_acknowledged and row.timed_out == not_acknowledged else "failed"


def with_range(figure: Spread, infinite: str = "failed", unit: str = "") -> str:
    """Return a figure and, where there are several blocks, their range in brackets."""
    text = milliseconds(figure.median, infinite, unit)
    if figure.blocks < 2:
        return text
    return f"{text} ({milliseconds(figure.low, infinite, '')}–{milliseconds(figure.high, infinite, '')})"


def tasks(figure: Spread) -> str:
    """Return a number of tasks, a whole one or between two, and where there are several blocks their range."""
    if figure.median is None:
        return NONE
    median, low, high = (f"{count or 0:,.10g}" for count in (figure.median, figure.low, figure.high))
    return median if figure.blocks < 2 else f"{median} ({low}–{high})"


def ratio(comparison: Comparison) -> str:
    """Return the ratio with its interval, or that of the only round."""
    if comparison.ratio is not None and comparison.low is not None and comparison.high is not None:
        return f"{comparison.ratio:.2f} ({comparison.low:.2f}–{comparison.high:.2f})"
    if len(comparison.ratios) == 1 and comparison.ratios[0] is not None and math.isfinite(comparison.ratios[0]):
        return f"{comparison.ratios[0]:.2f}"
    return NONE


def verdict(comparison: Comparison) -> str:
    """Return the verdict, with its factor or its reason."""
    if comparison.verdict == "unknown":
        return f"unknown ({comparison.reason})"
    if comparison.verdict in ("faster", "slower") and comparison.ratio is not None:
        factor = comparison.ratio if comparison.verdict == "slower" else 1 / comparison.ratio
        return f"{comparison.verdict} by ×{factor:.2f}"
    return comparison.verdict or "no verdict"


def count_with_interval(share: Share) -> str:
    """Return a count out of its total with Wilson's interval: ``3 of 2,000 (0.05 %–0.44 %)``."""
    if share.of is None or share.low is None or share.high is None:
        return f"{share.count:,}"
    return f"{share.count:,} of {share.of:,} ({percent(share.low)}–{percent(share.high)})"


def fault(name: str, grace_s: float) -> str:
    """Return a fault's name, of a deploy with the grace period where that is not the usual one."""
    return name if name != "deploy" or grace_s == GRACE_S else f"{name} (grace {seconds(grace_s)})"


def by_fate(counts: Mapping[Fate, int]) -> str:
    """Return how many tasks had which fate, without those that none had: ``6 not done, 1 recovered``."""
    found = [f"{count:,} {fate.replace('_', ' ')}" for fate, count in counts.items() if count]
    return ", ".join(found) or "none"


def below(of: int) -> str:
    """Return what none in n says: the share is below 3/n (the rule of three)."""
    return f"none in {of:,}: below {percent(min(1.0, 3 / of))}"


# What stands above the numbers


def limitations(run: RunRecord, calibration: Calibration | None) -> list[str]:
    """Return what a reader must know before any number, one sentence each."""
    if run.plan.command in CALIBRATIONS:
        return [*_extent(run), *_pinning(run), *_neighbours(run), *_turns(run), *_blocks(run)]
    found = [*_extent(run), *_machine(run), *_neighbours(run), *_turns(run)]
    return [*found, *_instrument(calibration), *_blocks(run), *_left_over(run)]


def _instrument(calibration: Calibration | None) -> list[str]:
    if calibration is None:
        return [
            "No calibration of this machine lay beside this run: how far its instrument can be trusted is not "
            "known here; `lab calibrate` under the same `--out` makes one."
        ]
    verdicts = calibration.aa.wrong if calibration.aa else []
    found = [] if calibration.on_known else ["No calibration beside this run tried the instrument on known latencies."]
    for sentence in calibration.wrong:
        of = calibration.aa.run if calibration.aa and sentence in verdicts else calibration.run
        found.append(f"The calibration of this machine ({of}) says: {sentence}")
    return found


def _pinning(run: RunRecord) -> list[str]:
    if run.environment.placement.pinned:
        return []
    return ["This system cannot pin processes to CPUs: generator and contender may have disturbed each other."]


def _extent(run: RunRecord) -> list[str]:
    found = []
    finished = [block for block in run.blocks if block.state == "finished"]
    if not finished:
        found.append("No block was finished: there is nothing to compare.")
    elif not any(block.valid for block in finished):
        found.append("Every finished block is void: the result as a whole is void.")
    if run.plan.quick:
        found.append("This was a quick run: it shows that everything works and gives no verdicts.")
    if run.plan.exploratory:
        found.append(
            "This run is exploratory: it was seen in the web UI, where contenders side by side share CPUs and disturb "
            "each other. It gives no verdicts, and CPU and memory were not sampled."
        )
        found += [
            f"The figures of {block.contender} include {block.injections} fault{'s' if block.injections > 1 else ''} "
            f"that somebody did to it; {block.folder}/faults.json says which and when."
            for block in run.blocks
            if block.injections
        ]
    missing = [block for block in run.blocks if block.state == "planned"]
    if missing:
        how = "The run was interrupted" if run.interrupted else "The run is not complete"
        more = f", and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
        named = _named(missing[:MOST_NAMED]) + more
        found.append(f"{how}: {len(missing)} of {len(run.blocks)} blocks are missing ({named}).")
    return found


def _named(blocks: list[BlockRecord]) -> str:
    names = [
        f"{block.number}: {block.contender}, {block.fault or block.scenario}"
        + (f", round {block.round}" if block.round else "")
        + (f", {block.rate:g}/s" if block.rate is not None else ", ramp" if block.ramp else "")
        for block in blocks
    ]
    return ", ".join(names)


def _machine(run: RunRecord) -> list[str]:
    running = [contender.name for contender in run.plan.contenders if contender.url]
    found = [*_pinning(run), *_cores(run)] if len(running) < len(run.plan.contenders) else []
    found += _not_started(run, running) if running else []
    if unknown := [contender.name for contender in run.plan.contenders if not contender.journal]:
        found.append(
            f"Of {' and '.join(unknown)} there is no journal: what became of the tasks is not known, only what the "
            "client sees."
        )
    return found


def _not_started(run: RunRecord, running: list[str]) -> list[str]:
    who = "the contenders" if len(running) == len(run.plan.contenders) else " and ".join(running)
    they_run = "they run" if len(running) == len(run.plan.contenders) or len(running) > 1 else "it runs"
    return [
        f"The lab did not start {who}: it does not know on which CPUs {they_run}, nor what else runs there, "
        "and no block began with a fresh one."
    ]


def _left_over(run: RunRecord) -> list[str]:
    """Say which blocks began amid tasks of others."""
    return [
        f"When block {_named([block])}, began, {block.left_over:,} task{'s' if block.left_over > 1 else ''} of earlier "
        "blocks had not ended: they may have run in it."
        for block in run.blocks
        if block.left_over
    ]


def untold(run: RunRecord, pending: Mapping[str, int]) -> list[str]:
    """Say of how many tasks nobody knows whether they wait or are lost; ``pending`` is by contender."""
    running = {contender.name for contender in run.plan.contenders if contender.url}
    return [
        f"Of {contender}, {count:,} acknowledged tasks were not done by the horizon: whether they wait or are lost "
        "cannot be told of what the lab did not start. They count as pending."
        for contender, count in pending.items()
        if count and contender in running
    ]


def _cores(run: RunRecord) -> list[str]:
    if len(run.environment.placement.contender) > 1:
        return []
    return [
        "Each contender had one core: Celery's use of more cores, which BackgroundTasks cannot make, cannot show here."
    ]


def _neighbours(run: RunRecord) -> list[str]:
    """Say where others were busy on the contender's CPUs; with a fault, of what died some CPU time is not known."""
    known = [block for block in run.blocks if block.fault is None and "others_share" in block.instrument]
    crowded = [block for block in known if block.instrument["others_share"] > CROWDED]
    if not crowded:
        return []
    worst = max(crowded, key=lambda block: block.instrument["others_share"])
    return [
        f"Others used more than {percent(CROWDED)} of the contender's CPUs in {len(crowded)} of {len(known)} blocks, "
        f"at most {percent(worst.instrument['others_share'])} (block {worst.number}): what it could do there is less "
        "than what it can."
    ]


def _turns(run: RunRecord) -> list[str]:
    """Say where the generator did not run before all that shares its CPUs; of older blocks that is not known.

    In the web UI, where no schedule is kept to, it never does.
    """
    known = [block.instrument["real_time"] for block in run.blocks if "real_time" in block.instrument]
    if all(known) or run.plan.exploratory:
        return []
    where = "" if not any(known) else f" in {known.count(0)} of {len(known)} blocks"
    return [
        f"The load generator took turns with the shared servers{where}: it had no real-time policy, for want of the "
        "right to one or because of too high a rate for it. More blocks may be void than with it."
    ]


def _blocks(run: RunRecord) -> list[str]:
    found = []
    for block in run.blocks:
        why = " ".join(block.why)
        if block.state == "failed":
            found.append(f"Block {_named([block])}, failed: {why}")
        elif block.state == "finished" and not block.valid:
            found.append(f"Block {_named([block])}, is void: {why}")
        elif run.plan.exploratory:
            found += [f"Block {_named([block])}, would be void in a measured run: {why}"] if why else []
        elif block.injections is not None and block.injections < run.plan.injections:
            found.append(
                f"Block {_named([block])}: the fault came {block.injections} times instead of {run.plan.injections}, "
                "because the window was over before the stack was ready for the next, or a part that it is for did not "
                "run."
            )
    return found


# What the numbers mean


def sentences(summary: Summary) -> list[str]:
    """Return the verdicts, and what became of the tasks, in plain words."""
    told = [_compared(c, summary) for c in summary.comparisons if c.primary and c.scenario not in summary.in_a_grid]
    if summary.command in CALIBRATIONS and summary.calibration:
        told += calibrated(summary.calibration)
    beside = [row for row in summary.bystanders if row.scenario not in summary.in_a_grid]
    groups = {(row.fault, row.scenario, row.contender): None for row in beside}
    told += [_beside(summary, *group) for group in groups]
    told += [capacity(found) for found in summary.capacities]
    groups = {(share.fault, share.scenario, share.contender): None for share in summary.shares}
    return told + [_became(summary, *group) for group in groups]


def _beside(summary: Summary, name: str | None, scenario: str, contender: str) -> str:
    """Return how long everybody else waited beside one contender's work."""
    names = (name, scenario, contender)
    own = [row for row in summary.bystanders if (row.fault, row.scenario, row.contender) == names]
    under = f" under {scenario}" if len({row.scenario for row in summary.bystanders}) > 1 else ""
    where = f" with {fault(name, summary.grace_s)}" if name else under
    said = " and ".join(f"`{row.route}` {_waited(row)}" for row in own)
    return f"What the work of `{contender}` does to everybody else{where}: {said}."


def _waited(row: Bystander) -> str:
    if row.response_p50_ms.median == math.inf:
        return "mostly failed"
    p95 = milliseconds(row.response_p95_ms.median, "“failed” (over 5 % got no yes)")
    return f"took {milliseconds(row.response_p50_ms.median, '')} (p95 {p95})"


def backlog(row: Backlog) -> str:
    """Return a backlog in a few words."""
    return f"largest {tasks(row.largest)}, at the window's end {tasks(row.at_window_end)}"


def backlog_unknown(run: RunRecord) -> list[str]:
    """Return of which contenders nobody can say how many of their tasks were waiting."""
    if run.plan.command == "calibrate":
        return []
    return [f"The backlog of `{c.name}` is not known: it has no journal." for c in run.plan.contenders if not c.journal]


def calibrated(calibration: Calibration) -> list[str]:
    """Return what a calibration says of the instrument."""
    told = calibration.wrong or (_within_bounds(calibration) if calibration.on_known else [])
    return [*told, *map(_alone, calibration.generators), *(_tried(calibration.aa) if calibration.aa else [])]


def _within_bounds(calibration: Calibration) -> list[str]:
    servers, planted = len(calibration.servers), sum(one.planted for one in calibration.planted)
    return [
        f"p50, p95 and p99 of all {servers} servers are within 2 % or 1 ms of the truth, and every outcome is right.",
        f"All {planted} faults that were planted in the files of real blocks were found, and none was invented.",
    ]


def _tried(aa: AgainstItself) -> list[str]:
    kinds = {"The same contender twice": aa.alike, "10 % more work per task": aa.unlike}
    return [
        f"{what}: a difference in {different(one)} comparisons of {aa.rounds} rounds (`{aa.run}`); ratio of time to "
        f"done {done_ratio(one)} over all of them."
        for what, one in kinds.items()
        if one.judged
    ]


def per_second(found: Capacity) -> str:
    """Return the interval of a capacity: ``9.1–9.8``, ``at least 320``, ``below 0.4``."""
    if found.low is not None and found.high is not None:
        return f"{found.low:g}–{found.high:g}"
    if found.low is not None:
        return f"at least {found.low:g}"
    return NONE if found.high is None else f"below {found.high:g}"


def limit(found: Capacity) -> str:
    """Return in a few words what a contender met: ``CPU, 97 % busy``, ``slots, 40 tasks at once``."""
    cpu = "" if found.cpu_share is None else f", {found.cpu_share:.0%} busy".replace("%", " %")
    if found.limit == "slots":
        at_once = round(found.running_at_once or 0)
        return f"slots, {at_once} task{'s' if at_once > 1 else ''} at once (CPU{cpu[1:]})"
    if found.limit == "not known" and found.high is not None and cpu:
        return f"not known (CPU{cpu[1:]})"
    return {"cpu": f"CPU{cpu}", "generator": "the load generator"}.get(found.limit, found.limit)


def slo(limits: Slo) -> str:
    """Return when a rate holds."""
    return (
        f"A rate holds where, in a block of its own, response p95 is at most {limits.response_p95_ms:g} ms, "
        f"{percent(limits.errors)} of the requests or fewer fail, time to done p95 is at most {limits.done_p95_s:g} s, "
        "and the backlog does not grow. The capacity lies between the highest rate that held in each of its blocks, "
        "with no failed one below it, and the lowest that failed in each of its own, with none above it that held."
    )


ENDED = {
    "narrow": "",
    "time": "the time was used up before the interval was narrow",
    "interrupted": "the search was interrupted",
    "failed": "its blocks failed",
}


def in_a_row(values: list[float]) -> str:
    """Return rates in a row."""
    return ", ".join(f"{rate:g}" for rate in values)


def capacity(found: Capacity) -> str:
    """Return what a search says of one contender under one kind of work."""
    where = f"`{found.contender}` under {found.scenario}"
    said = [f"{where}: not known" if found.low is found.high is None else f"{where}: {per_second(found)} requests/s"]
    if found.high is not None:
        said.append(f"limit: {limit(found)}")
    elif found.low is not None:
        by = "the load generator could not send more" if found.limit == "generator" else "no higher rate was decided"
        said.append(f"a lower bound, {by}")
    if found.undecided:
        said.append(f"undecided at {in_a_row(found.undecided)}")
    if found.not_measured:
        said.append(f"could not be measured at {in_a_row(found.not_measured)}")
    if ENDED[found.ended]:
        said.append(ENDED[found.ended])
    return "; ".join(said) + "."


def different(one: Compared) -> str:
    """Return in how many comparisons a difference was found, with Wilson's interval."""
    if one.low is None or one.high is None:
        return NONE
    return f"{one.different} of {one.judged} ({percent(one.low)}–{percent(one.high)})"


def done_ratio(one: Compared) -> str:
    """Return the ratio of time to done over all comparisons, with its interval."""
    if one.done_ratio is None:
        return NONE
    return f"{one.done_ratio:.3f} ({one.done_ratio_low:.3f}–{one.done_ratio_high:.3f})"


def _alone(one: Generator) -> str:
    """Return how fast the generator is by itself, by one number of processes."""
    who = "The load generator alone" + (f", {one.processes} processes," if one.processes > 1 else ", one process,")
    if one.rate is None:
        return f"{who} was late or failed at every rate, from {number(one.too_fast or 0)} requests/s on."
    limit = "the highest rate tried" if one.too_fast is None else f"not {number(one.too_fast)}"
    return (
        f"{who} sends {number(one.rate)} requests/s with a p99 lateness of "
        f"{milliseconds(one.lateness_p99_ms, NONE)}, {limit}."
    )


def _compared(comparison: Comparison, summary: Summary) -> str:
    where = f" under {comparison.scenario}" if len({row.scenario for row in summary.routes}) > 1 else ""
    if not comparison.rounds:
        metric = "response" if comparison.metric == "response_p95_ms" else "to done"
        return f"`{comparison.other}` against `{comparison.baseline}`, {metric} p95{where}: {verdict(comparison)}."
    other, baseline = (_figure(comparison, figure) for figure in (comparison.other_figure, comparison.baseline_figure))
    what = "acknowledged with" if comparison.metric == "response_p95_ms" else "had its work done with"
    rounds = f"{len(comparison.rounds)} round{'s' if len(comparison.rounds) > 1 else ''}"
    found = "" if ratio(comparison) == NONE else f"; ratio {ratio(comparison)} over {rounds}"
    return (
        f"`{comparison.other}` {what} a p95 of {other}, `{comparison.baseline}` of {baseline}{where}{found}: "
        f"{verdict(comparison)}."
    )


def _figure(comparison: Comparison, figure: float | None) -> str:
    response = comparison.metric.startswith("response")
    infinite = "“failed” (over 5 % got no yes)" if response else f"“{BEYOND_HORIZON}” (over 5 % never ended)"
    return milliseconds(figure, infinite)


def _became(summary: Summary, name: str | None, scenario: str, contender: str) -> str:
    """Return what became of one contender's tasks: of how many acknowledged ones how many were done, lost, …"""
    names = (name, scenario, contender)
    own = [share for share in summary.shares if (share.fault, share.scenario, share.contender) == names]
    under = f" under {scenario}" if len({s.scenario for s in summary.shares}) > 1 else ""
    where = f" with {fault(name, summary.grace_s)}" if name else under
    told = next((share.of for share in own if share.request_outcome == "acknowledged"), None)
    if not told:
        return f"`{contender}`{where}: no task was acknowledged."
    counts = {share.fate: share for share in own if share.request_outcome == "acknowledged"}
    done = counts["done"].count if "done" in counts else 0
    parts = [f"{done:,} done"]
    parts += [
        f"{_plain(share)} {count_with_interval(share)}{f', {DUE_AGAIN}' if fate == 'stranded' else ''}"
        for fate, share in counts.items()
        if fate != "done"
    ]
    if "lost" not in counts:
        parts.append(f"lost {below(told)}")
    parts += [f"{_plain(share)} {share.count:,}" for share in own if share.request_outcome != "acknowledged"]
    none = [fate for fate in ("stranded", "duplicated", "recovered") if all(share.fate != fate for share in own)]
    if none:
        parts.append(f"none {' or '.join(filter(None, [', '.join(none[:-1]), none[-1]]))}")
    back = next((_back(f) for f in summary.faults if (f.fault, f.scenario, f.contender) == names), "")
    return f"`{contender}`{where}: of {told:,} acknowledged tasks {'; '.join(parts)}{back}."


def _back(figures: FaultFigures) -> str:
    states = {"ready again": figures.ready_s, "back to normal": figures.back_to_normal_s}
    said = [reached(state, times_s) for state, times_s in states.items() if times_s.median is not None]
    return f"; {', and '.join(said)}" if said else ""


def reached(state: str, times_s: Spread) -> str:
    """Return after how many injections of a fault, and after how long, a contender was in a state."""
    times = times_s.blocks - times_s.infinite
    if not times:
        return f"never {state} before the next of {times_s.blocks} injections"
    if times_s.infinite:
        return f"{state} in {times} of {times_s.blocks} injections, {times_s.low:.1f} s after them at the soonest"
    return f"{state} after {times_s.median:.1f} s ({times_s.low:.1f} to {times_s.high:.1f} s)"


def _plain(share: Share) -> str:
    aside = " (request without a clear answer)" if share.request_outcome == "indeterminate" else ""
    return share.fate.replace("_", " ") + aside


def as_given(command: str) -> str:
    """Return the command of a run as it was given, without its options: a calibration of the verdicts is an option."""
    return "calibrate --aa" if command == CALIBRATE_AA else command


def reproduce(plan: Plan) -> str:
    """Return the command that makes a run of the same plan."""
    if plan.command in CALIBRATIONS:
        return f"lab {as_given(plan.command)} --seed {plan.seed}"
    if plan.slo:
        return _search_again(plan, plan.slo)
    if plan.exploratory:
        return shlex.join(["lab", plan.command, *(part for c in plan.contenders for part in ("--contender", c.name))])
    rounds = plan.rounds or plan.fault_repeats
    command = ["lab", plan.command, "--seed", str(plan.seed), "--rounds", str(rounds)]
    command += ["--quick"] if plan.quick else []
    changed: dict[str, object] = {
        "--stack": plan.stack if plan.stack != "local" else None,
        "--contenders": plan.contenders_file,
        "--scenarios": plan.scenarios_folder,
        "--grace": f"{plan.grace_s:g}" if plan.grace_s != GRACE_S else None,
        "--generators": plan.generators if plan.generators > 1 else None,
    }
    command += [str(part) for pair in changed.items() if pair[1] is not None for part in pair]
    for host in plan.may_load:
        command += ["--i-may-load", host]
    for contender in plan.contenders:
        command += ["--contender", contender.name]
    for name in choices(plan.scenarios):
        command += ["--scenario", name]
    for fault in plan.faults or ["none"]:
        command += ["--fault", fault]
    if len({load.rate for load in plan.scenarios}) == 1 and not any(load.grid for load in plan.scenarios):
        command += ["--rate", f"{plan.scenarios[0].rate:g}"]
    if len({scenario.duration_s for scenario in plan.scenarios}) == 1:
        duration_s = plan.scenarios[0].duration_s if plan.rounds else plan.fault_duration_s
        command += ["--duration", f"{duration_s:g}"] if duration_s else []
    return shlex.join(command)


def _search_again(plan: Plan, slo: Slo) -> str:
    """Return the command that searches for the same capacities."""
    command = ["lab", "capacity", "--seed", str(plan.seed), "--budget", f"{(plan.budget_s or 0) / 60:g}"]
    command += ["--slo-response-ms", f"{slo.response_p95_ms:g}", "--slo-errors", f"{slo.errors:g}"]
    command += ["--slo-done-s", f"{slo.done_p95_s:g}", "--duration", f"{plan.scenarios[0].duration_s:g}"]
    if len({scenario.probe_seconds for scenario in plan.scenarios}) == 1:
        command += ["--seconds", f"{plan.scenarios[0].probe_seconds:g}"]
    command += [part for contender in plan.contenders for part in ("--contender", contender.name)]
    return shlex.join(command + [part for scenario in plan.scenarios for part in ("--work", scenario.name)])
