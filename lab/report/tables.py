"""The tables of the report as text in cells: HTML, Markdown and the terminal print the same ones."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lab.report import words
from lab.report.summary import (
    Calibration,
    Capacity,
    CapacityPoint,
    Cost,
    Fate,
    FaultFigures,
    Generator,
    Latency,
    RouteFigures,
    Summary,
)
from lab.rundir import Environment, RunRecord, ScenarioRecord
from lab.scenario import choices

FIGURES = {"response_p50_ms": "response p50", "response_p95_ms": "response p95"}
FIGURES |= {"done_p50_ms": "to done p50", "done_p95_ms": "to done p95"}


@dataclass(frozen=True)
class Table:
    """A table: the first ``labels`` columns are text, the others numbers."""

    head: list[str]
    rows: list[list[str]]
    labels: int = 1


def of_tasks(row: RouteFigures) -> list[str]:
    """Return how many tasks were acknowledged, and of these done, lost, and of any other fate.

    Only acknowledged ones are done or lost; one of another request is recovered, not done or unexpected instead.
    """
    if not sum(row.fates.values()):
        return [words.NONE] * 4
    done, lost = row.fates["done"], row.fates["lost"]
    return [f"{count:,}" for count in (row.tasks, done, lost, row.tasks - done - lost)]


def glance(summary: Summary, scenario: str) -> Table:
    """Return one row per contender: every route of the load together, medians over blocks."""
    rows = [row for row in summary.routes if row.scenario == scenario and row.route == "all"]
    head = ["contender", "response p50", "p95", "p99", "closed loop p95", "to done p50", "p95", "goodput /s"]
    head += ["acknowledged", "done", "lost", "other"]
    return Table(head, [_glance_row(row) for row in rows])


def _glance_row(row: RouteFigures) -> list[str]:
    cells = _medians(row)
    return [row.contender, *cells[:3], words.milliseconds(row.service_p95_ms.median, words.NONE, ""), *cells[3:]]


def _medians(row: RouteFigures) -> list[str]:
    responses = (row.response_p50_ms, row.response_p95_ms, row.response_p99_ms)
    return [
        *(words.milliseconds(figure.median, words.failed(row), "") for figure in responses),
        *(words.milliseconds(f.median, words.BEYOND_HORIZON, "") for f in (row.done_p50_ms, row.done_p95_ms)),
        words.milliseconds(row.goodput_per_s.median, words.NONE, ""),
        *of_tasks(row),
    ]


def by_route(summary: Summary, scenario: str) -> list[tuple[str, list[list[str]]]]:
    """Return, for each route, the rows of `glance`; every route together comes first."""
    routes = dict.fromkeys(row.route for row in summary.routes if row.scenario == scenario)
    return [
        (
            "every route" if route == "all" else route,
            [
                [row.contender, *_medians(row)]
                for row in summary.routes
                if (row.scenario, row.route) == (scenario, route)
            ],
        )
        for route in routes
    ]


def response_times(summary: Summary, scenario: str) -> Table:
    """Return response and service time per route and contender, with the range over blocks."""
    head = ["route", "contender", "requests", "not acknowledged", "response p50", "p95", "p99"]
    head += ["service p50", "p95"]
    return Table(head, _grouped(_response_row(row) for row in _by_route(summary, scenario)), labels=2)


def _response_row(row: RouteFigures) -> list[str]:
    responses = (row.response_p50_ms, row.response_p95_ms, row.response_p99_ms)
    services = (row.service_p50_ms, row.service_p95_ms)
    return [
        row.route,
        row.contender,
        f"{row.requests:,}",
        f"{row.requests - row.acknowledged:,}",
        *(words.with_range(figure, words.failed(row)) for figure in responses),
        *(words.with_range(figure) for figure in services),
    ]


def task_times(summary: Summary, scenario: str) -> Table:
    """Return queue wait and time to done per route and contender, with the range over blocks."""
    head = ["route", "contender", "tasks", "queue wait p50", "p95", "to done p50", "p95", "goodput /s"]
    rows = [row for row in _by_route(summary, scenario) if sum(row.fates.values())]
    return Table(head, _grouped(_task_row(row) for row in rows), labels=2)


def _task_row(row: RouteFigures) -> list[str]:
    times = (row.queue_wait_p50_ms, row.queue_wait_p95_ms, row.done_p50_ms, row.done_p95_ms)
    return [
        row.route,
        row.contender,
        f"{row.tasks:,}",
        *(words.with_range(figure, words.BEYOND_HORIZON) for figure in times),
        words.with_range(row.goodput_per_s),
    ]


def _by_route(summary: Summary, scenario: str) -> list[RouteFigures]:
    own = [row for row in summary.routes if row.scenario == scenario]
    order = {route: position for position, route in enumerate(dict.fromkeys(row.route for row in own))}
    return sorted(own, key=lambda row: order[row.route])


def _grouped(rows: Iterable[list[str]]) -> list[list[str]]:
    """Return rows that name in their first column only what the row above did not."""
    grouped, above = [], ""
    for name, *cells in rows:
        grouped.append(["" if name == above else name, *cells])
        above = name
    return grouped


def ratios(summary: Summary, keep: Callable[[str], bool]) -> Table:
    """Return the comparisons on the routes to keep."""
    head = ["figure", "route", "scenario", "compared", "verdict", "ratio", "rounds"]
    rows = [
        [FIGURES[c.metric], c.route, c.scenario, f"{c.other} ÷ {c.baseline}",
         words.verdict(c) if c.primary else words.NONE, words.ratio(c), str(len(c.rounds))]
        for c in summary.comparisons if keep(c.route) and not c.bystander and c.scenario not in summary.in_a_grid
    ]  # fmt: skip
    return Table(head, rows, labels=5)


def bystander_ratios(summary: Summary) -> Table:
    """Return the comparisons of what the work did to bystanders; they get no verdict."""
    head = ["figure", "route", "scenario", "compared", "ratio", "rounds"]
    rows = [
        [FIGURES[c.metric], c.route, c.scenario, f"{c.other} ÷ {c.baseline}", words.ratio(c), str(len(c.rounds))]
        for c in summary.comparisons
        if c.bystander and c.scenario not in summary.in_a_grid
    ]
    return Table(head, rows, labels=4)


def bystanders(summary: Summary) -> Table:
    """Return what the work did to requests that have nothing to do with it."""
    head = ["contender", "load", "route", "requests", "not acknowledged", "response p50", "p95"]
    return Table(
        head,
        [
            [b.contender, _under(b.scenario, b.fault, summary.grace_s), b.route]
            + [f"{count:,}" for count in (b.requests, b.requests - b.acknowledged)]
            + [words.with_range(figure) for figure in (b.response_p50_ms, b.response_p95_ms)]
            for b in summary.bystanders
            if b.scenario not in summary.in_a_grid
        ],
        labels=3,
    )


def backlogs(summary: Summary) -> Table:
    """Return the largest backlog and that at the window's end."""
    head = ["contender", "load", "block", "largest backlog", "at the window's end"]
    return Table(
        head,
        [
            [b.contender, _under(b.scenario, b.fault, summary.grace_s), str(b.block or words.NONE)]
            + [words.tasks(figure) for figure in (b.largest, b.at_window_end)]
            for b in summary.backlogs
            if b.scenario not in summary.in_a_grid
        ],
        labels=3,
    )


def resources(summary: Summary) -> Table:
    """Return CPU time and memory by role."""
    head = ["contender", "scenario", "role", "CPU seconds", "per 1,000 tasks done", "peak memory"]
    return Table(
        head,
        [
            [r.contender, r.scenario, r.role, *(words.with_range(f) for f in (r.cpu_s, r.cpu_s_per_1000_done)),
             words.megabytes(r.peak_memory_bytes.median)]
            for r in summary.resources if r.scenario not in summary.in_a_grid
        ],
        labels=3,
    )  # fmt: skip


def brokers(summary: Summary) -> Table:
    """Return what each contender's broker used, as it says itself."""
    head = ["contender", "scenario", "most memory allocated, kB", "in and out, kB", "per 1,000 tasks done"]
    return Table(
        head,
        [
            [b.contender, b.scenario, words.kilobytes(b.peak_used_bytes)]
            + [words.kilobytes(figure) for figure in (b.net_bytes, b.net_bytes_per_1000_done)]
            for b in summary.brokers
            if b.scenario not in summary.in_a_grid
        ],
        labels=2,
    )


def shares(summary: Summary) -> Table:
    """Return what became of the tasks, with Wilson's intervals."""
    head = ["contender", "load", "request", "fate", "tasks (95 % interval)"]
    return Table(
        head,
        [
            [s.contender, _under(s.scenario, s.fault, summary.grace_s),
             "never asked" if s.request_outcome == "none" else s.request_outcome, s.fate.replace("_", " "),
             words.count_with_interval(s)]
            for s in summary.shares
        ],
        labels=4,
    )  # fmt: skip


def _under(scenario: str, fault: str | None, grace_s: float) -> str:
    return f"{scenario} + {words.fault(fault, grace_s)}" if fault else scenario


def faults(summary: Summary) -> Table:
    """Return what each fault did to each contender: what became of the acknowledged tasks, and last of all others."""
    head = ["fault", "contender", "faults", "acknowledged", "done", "lost", "stranded", "duplicated", "other"]
    return Table(
        [*head, "recovered", "ready after s", "normal after s", "without a yes"],
        _grouped(_fault_row(row, summary.grace_s) for row in summary.faults),
        labels=2,
    )


def _fault_row(row: FaultFigures, grace_s: float) -> list[str]:
    named: list[Fate] = ["done", "lost", "stranded", "duplicated"]
    counts = [row.injections, row.tasks, *(row.fates[fate] for fate in named)]
    counts.append(row.tasks - sum(row.fates[fate] for fate in named))
    counts.append(row.fates_without_a_yes["recovered"])
    after = [words.after(spread) for spread in (row.ready_s, row.back_to_normal_s)]
    return [
        words.fault(row.fault, grace_s),
        row.contender,
        *(f"{count:,}" for count in counts),
        *after,
        words.by_fate(row.fates_without_a_yes),
    ]


def beside_faults(summary: Summary) -> Table:
    """Return how long bystanders waited that came while a fault was on, and those of before."""
    head = ["fault", "contender", "bystander", "before: requests", "p50", "p95", "during: requests", "p50", "p95"]
    rows = [
        [words.fault(b.fault, summary.grace_s), b.contender, b.route,
         f"{b.requests_before:,}", words.with_range(b.before_p50_ms), words.with_range(b.before_p95_ms),
         f"{b.requests:,}", words.with_range(b.response_p50_ms), words.with_range(b.response_p95_ms)]
        for b in summary.fault_bystanders
    ]  # fmt: skip
    return Table(head, _grouped(rows), labels=3)


def blocks(summary: Summary) -> Table:
    """Return every block and whether it can be believed."""
    head = [
        "block",
        "round",
        "contender",
        "load",
        "state",
        "why",
        "sent late p99",
        "loop lag p99",
        "steal",
        "others",
        "unsent",
    ]
    rows = []
    for b in summary.blocks:
        state = b.state if b.state != "finished" else "valid" if b.valid else "void"
        measured = [words.milliseconds(figure, words.NONE) for figure in (b.lateness_p99_ms, b.loop_lag_p99_ms)]
        taken = [words.NONE if one is None else words.percent(one) for one in (b.steal_share, b.others_share)]
        unsent = words.NONE if b.unsent is None else str(b.unsent)
        load = _under(b.scenario, b.fault, summary.grace_s) + (f", {b.rate:g}/s" if b.rate is not None else "")
        what = [str(b.number), str(b.round or words.NONE), b.contender, load, state, " ".join(b.why)]
        rows.append([*what, *measured, *taken, unsent])
    return Table(head, rows, labels=6)


def capacities(summary: Summary) -> Table:
    """Return the capacity of each contender for each kind of work, as an interval, and what set it."""
    head = ["work", "contender", "requests /s", "limit", "undecided at", "not measurable at", "ended", "blocks"]
    rows = [
        [c.scenario, c.contender, words.per_second(c), _limit(c), words.in_a_row(c.undecided),
         words.in_a_row(c.not_measured), words.ENDED[c.ended], str(sum(point.fresh for point in c.curve))]
        for c in summary.capacities
    ]  # fmt: skip
    return Table(head, _grouped(rows), labels=7)


def _limit(found: Capacity) -> str:
    """Return what a contender met; nothing where nothing was found that it could not do, and so no limit."""
    return words.limit(found) if found.high is not None or found.limit == "generator" else ""


def curve(found: Capacity) -> Table:
    """Return what a search saw of one contender under one kind of work, in the order of rates."""
    head = ["block", "SLO", "rate /s", "requests", "response p95 ms", "errors", "to done p95 s", "goodput /s"]
    return Table(
        [*head, "backlog mid", "end", "running at once", "CPU", "bystanders p95 ms"],
        [
            [str(p.block), _verdict(p), f"{p.rate:g}", f"{p.requests:,}",
             words.milliseconds(p.response_p95_ms, "failed", ""), words.percent(p.errors),
             words.milliseconds(p.done_p95_s, words.BEYOND_HORIZON, ""),
             *(words.milliseconds(figure, words.NONE, "")
               for figure in (p.goodput_per_s, p.backlog_mid, p.backlog_end, p.running_at_once)),
             words.NONE if p.cpu_share is None else words.percent(p.cpu_share),
             words.milliseconds(p.bystander_p95_ms, "failed", "")]
            for p in found.curve
        ],
        labels=2,
    )  # fmt: skip


def _verdict(point: CapacityPoint) -> str:
    """Return whether the SLO held in a window, and what of it did not."""
    if point.broken is None:
        return "ramp" if not point.fresh else "void" if not point.valid else "generator late"
    return "broken: " + ", ".join(point.broken) if point.broken else "held"


def known_servers(calibration: Calibration) -> Table:
    """Return, for each server, the truth, what the lab reports, and what Locust's own closed loop reports."""
    rows = []
    for server in calibration.servers:
        rows += [
            [server.server, "truth", *_percentiles(server.truth)],
            ["", "lab", *_percentiles(server.lab)],
            ["", "closed loop", *_percentiles(server.closed_loop)],
        ]
    return Table(["server", "by", "p50", "p95", "p99", "p99.9"], rows, labels=2)


def planted(calibration: Calibration) -> Table:
    """Return, for each block in whose files faults were planted, how many of them were found."""
    rows = [[p.contender, p.what, str(p.planted), str(p.found), str(p.invented)] for p in calibration.planted]
    return Table(["contender", "fault", "planted", "found", "invented"], rows, labels=2)


def costs(calibration: Calibration) -> Table:
    """Return what journal and sampler cost."""
    rows = [
        [cost.contender, cost.metric.replace("_", " "), str(cost.rounds), *_figures(cost), _ratio(cost)]
        for cost in calibration.costs
    ]
    return Table(["contender", "figure", "rounds", "with", "without", "ratio"], rows, labels=2)


def against_itself(calibration: Calibration) -> Table:
    """Return in how many comparisons of what is alike, and of what is not, the verdicts found a difference."""
    aa = calibration.aa
    kinds = {"the same contender twice": aa.alike, "10 % more work per task": aa.unlike} if aa else {}
    rows = [
        [what, f"{one.judged:,} of {one.planned:,}", words.different(one), words.done_ratio(one)]
        for what, one in kinds.items()
    ]
    return Table(["compared", "judged", "found different (95 % interval)", "ratio of time to done"], rows, labels=1)


def _figures(cost: Cost) -> list[str]:
    return [words.milliseconds(figure, "failed", "") for figure in (cost.instrumented, cost.bare)]


def _ratio(cost: Cost) -> str:
    if cost.ratio is None or cost.low is None or cost.high is None:
        return words.NONE
    return f"{cost.ratio:.3f} ({cost.low:.3f}–{cost.high:.3f})"


def generators(calibration: Calibration) -> Table:
    """Return how fast the load generator is by itself."""
    head = ["processes", "requests/s in time", "p99 lateness", "no longer at", "policy"]
    return Table(head, [_generator_row(one) for one in calibration.generators])


def _generator_row(one: Generator) -> list[str]:
    return [
        str(one.processes),
        words.NONE if one.rate is None else words.number(one.rate),
        words.milliseconds(one.lateness_p99_ms, words.NONE),
        words.NONE if one.too_fast is None else words.number(one.too_fast),
        words.NONE if one.real_time is None else "real-time" if one.real_time else "taking turns",
    ]


def _percentiles(latency: Latency) -> list[str]:
    figures = (latency.p50_ms, latency.p95_ms, latency.p99_ms, latency.p999_ms)
    return [words.milliseconds(figure, "failed", "") for figure in figures]


def environment(run: RunRecord) -> Table:
    """Return the machine, the plan and the versions."""
    env, plan = run.environment, run.plan
    rows: Iterable[tuple[str, str]] = [
        ("started", f"{run.started_at:%Y-%m-%d %H:%M:%S} UTC"),
        ("commit", run.git_commit),
        ("CPU", f"{env.cpu}, {env.cores} cores, usable: {_list(env.affinity)}"),
        ("contender's cores", words.NOT_KNOWN if plan.stack == "running" else _list(env.placement.contender)),
        ("generator's cores", f"{_list(env.placement.generator)}{_how_placed(env)}"),
        ("memory", f"{env.memory_bytes / 2**30:.1f} GiB"),
        ("system", env.os),
        ("Python", env.python),
        *(
            (f"load {name}", _load(loads, search=plan.slo is not None))
            for name, loads in choices(plan.scenarios).items()
        ),
        *((f"contender {c.name}", f"{c.title}; tasks at once: {c.slots}") for c in plan.contenders),
        *((f"server {name}", version) for name, version in env.servers.items()),
        ("packages", ", ".join(f"{name} {version}" for name, version in env.packages.items())),
    ]
    return Table(["what", "is"], [list(row) for row in rows], labels=2)


def _how_placed(env: Environment) -> str:
    if not env.placement.pinned:
        return " (not pinned)"
    return ", kept awake under load" if env.kept_awake else ""


def _list(cpus: list[int]) -> str:
    return ", ".join(str(cpu) for cpu in cpus)


def _load(loads: list[ScenarioRecord], search: bool) -> str:
    rate, load = "the rate of each block" if search else words.rates(loads), loads[0]
    warmup, measured = words.seconds(load.warmup_s), words.seconds(load.duration_s)
    task = f"; a task takes {words.seconds(load.probe_seconds)}" if load.probe_seconds is not None and search else ""
    return f"{rate}, {load.arrivals} arrivals, {warmup} warm-up, {measured} measured{task}"
