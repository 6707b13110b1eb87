"""The report in words: how a figure is printed, what limits the numbers, and what they mean."""

import math
import shlex
from collections.abc import Mapping

from lab.history import DUE_AGAIN
from lab.report.summary import Calibration, Comparison, Fate, FaultFigures, RouteFigures, Share, Spread, Summary
from lab.rundir import GRACE_S, BlockRecord, Plan, RunRecord

NONE = "–"
BEYOND_HORIZON = "> horizon"
NOT_KNOWN = "not known: the lab did not start the contenders"

HOW_TO_READ = [
    "Requests arrive at times that were drawn beforehand and do not wait for answers (open loop). Response time counts "
    "from the intended time; service time, from the moment of sending, is what a closed loop would have said.",
    "Every intended request counts. One that was refused, reset, timed out or never sent counts as infinitely slow: "
    "“failed”, or “> 10 s” where all of these timed out. A task that never ended counts the same way: "
    f"“{BEYOND_HORIZON}”.",
    "A contender's figure is the median over its valid blocks; in brackets the smallest and the largest block. p99 is "
    "given for blocks of at least 1,000 requests.",
    "A ratio is the first contender's figure divided by the second's in the same round: below 1 is less time. Its "
    "interval is a 95 % t-interval over the rounds. A verdict is given on the primary figures only (p95 of response "
    "time and of time to done, every route together), with Holm's correction over all verdicts of the run: an "
    "interval that just misses 1 may still be “no significant difference”.",
    "Lost: acknowledged, never executed to its end, and nothing holds it any more. Stranded: a worker took it and "
    f"never acknowledged it; {DUE_AGAIN}. Recovered: done although its request "
    "never got a yes. Unexpected: done although its request was refused or never made.",
    "A request is disturbed by a fault if it got no yes, or its work was not done, or either took longer than three "
    "times the p95 of before the faults and longer than 250 ms. A contender is back to normal at the last disturbed "
    "request before a second without one; “never” is not before the next fault.",
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


def percent(share: float) -> str:
    """Return a share with at least two significant digits where it is small."""
    return f"{share * 100:.2g} %" if share < 0.1 else f"{share * 100:.1f} %"


def megabytes(value: float | None) -> str:
    """Return bytes as MB."""
    return NONE if value is None else f"{value / 1e6:,.0f} MB"


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
    if run.plan.command == "calibrate":
        return [*_extent(run), *_pinning(run), *_blocks(run)]
    return [*_extent(run), *_machine(run), *_instrument(calibration), *_blocks(run)]


def _instrument(calibration: Calibration | None) -> list[str]:
    if calibration is None:
        return ["The instrument was not calibrated on this machine."]
    when = f"The newest calibration of this machine ({calibration.run}) says"
    return [f"{when}: {sentence}" for sentence in calibration.wrong]


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
        found.append(f"{how}: {len(missing)} of {len(run.blocks)} blocks are missing ({_named(missing)}).")
    return found


def _named(blocks: list[BlockRecord]) -> str:
    return ", ".join(
        f"{block.number}: {block.contender}, {block.fault or block.scenario}"
        + (f", round {block.round}" if block.round else "")
        for block in blocks
    )


def _machine(run: RunRecord) -> list[str]:
    found = _not_started() if run.plan.stack == "running" else [*_pinning(run), *_cores(run)]
    if unknown := [contender.name for contender in run.plan.contenders if not contender.journal]:
        found.append(
            f"Of {' and '.join(unknown)} there is no journal: what became of the tasks is not known, only what the "
            "client sees."
        )
    return found


def _not_started() -> list[str]:
    return [
        "The lab did not start the contenders: it does not know on which CPUs they run, nor what else runs there, "
        "and no block began with a fresh one."
    ]


def _cores(run: RunRecord) -> list[str]:
    if len(run.environment.placement.contender) > 1:
        return []
    return [
        "Each contender had one core: Celery's use of more cores, which BackgroundTasks cannot make, cannot show here."
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
    told = [_compared(c, summary) for c in summary.comparisons if c.primary]
    if summary.command == "calibrate" and summary.calibration:
        told += calibrated(summary.calibration)
    groups = {(share.fault, share.scenario, share.contender): None for share in summary.shares}
    return told + [_became(summary, *group) for group in groups]


def calibrated(calibration: Calibration) -> list[str]:
    """Return what a calibration says of the instrument."""
    if calibration.wrong:
        return calibration.wrong
    servers, planted = len(calibration.servers), sum(one.planted for one in calibration.planted)
    return [
        f"p50, p95 and p99 of all {servers} servers are within 2 % or 1 ms of the truth, and every outcome is right.",
        f"All {planted} faults that were planted in the files of real blocks were found, and none was invented.",
    ]


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


def reproduce(plan: Plan) -> str:
    """Return the command that makes a run of the same plan."""
    if plan.command == "calibrate":
        return f"lab calibrate --seed {plan.seed}"
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
    for scenario in plan.scenarios:
        command += ["--scenario", scenario.name]
    for fault in plan.faults or ["none"]:
        command += ["--fault", fault]
    if len({(scenario.rate, scenario.duration_s) for scenario in plan.scenarios}) == 1:
        duration_s = plan.scenarios[0].duration_s if plan.rounds else plan.fault_duration_s
        command += ["--rate", f"{plan.scenarios[0].rate:g}"]
        command += ["--duration", f"{duration_s:g}"] if duration_s else []
    return shlex.join(command)
