"""The typed shape of ``summary.json``: every figure of the report.

A figure is a number, ``null`` where there is none (too few requests, nothing measured), or the text ``"inf"``: a
percentile that falls on a request that was never acknowledged or a task that never ended. JSON knows no infinity.
"""

import math
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema

from lab.rundir import GRACE_S, Environment, Slo
from lab.stats import Verdict
from lab.sustained import Limit

SUMMARY_SCHEMA = 1

Fate = Literal[
    "done", "failed", "given_up", "skipped", "pending", "stranded", "lost", "duplicated",
    "not_done", "recovered", "unexpected",
]  # fmt: skip


def _plain(figure: float | None) -> float | str | None:
    return "inf" if figure == math.inf else figure


Figure = Annotated[
    float | None,
    PlainSerializer(_plain, when_used="json"),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"const": "inf"}, {"type": "null"}]}),
]


class Part(BaseModel):
    """A part of the summary; unknown keys are an error."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class Spread(Part):
    """A contender's figure: the median over its valid blocks, and their smallest and largest."""

    median: Figure = None
    low: Figure = None
    high: Figure = None
    blocks: int = Field(default=0, description="how many valid blocks (or injections) have this figure")
    infinite: int = Field(default=0, description="in how many of them it is inf")


class Contender(Part):
    """Who was measured."""

    name: str
    title: str
    slots: str = Field(description="how many tasks can run at once, in words")


class RouteFigures(Part):
    """One contender on one route under one scenario; the route ``all`` is every route of the load together."""

    contender: str
    scenario: str
    route: str
    requests: int = Field(description="intended in the window, over all valid blocks; each counts in every percentile")
    acknowledged: int
    refused: int
    indeterminate: int
    unsent: int
    timed_out: int = Field(description="of those not acknowledged, the ones that took 10 s and more")
    response_p50_ms: Spread = Field(description="from the intended time")
    response_p95_ms: Spread
    response_p99_ms: Spread = Field(description="in blocks of at least 1,000 requests")
    service_p50_ms: Spread = Field(description="from the time of sending: what a closed loop would have said")
    service_p95_ms: Spread
    lateness_p99_ms: Spread = Field(description="how late the generator sent")
    done_p50_ms: Spread = Field(description="from the intended time to the end of the task; inf: not by the horizon")
    done_p95_ms: Spread
    queue_wait_p50_ms: Spread
    queue_wait_p95_ms: Spread
    goodput_per_s: Spread = Field(description="tasks of the window done per second of window and drain")
    tasks: int = Field(description="acknowledged tasks of the window, over all valid blocks")
    fates: dict[Fate, int] = Field(description="what became of the tasks of the window, all request outcomes")


class Bystander(Part):
    """What the work did to requests that have nothing to do with it."""

    contender: str
    scenario: str
    fault: str | None
    route: str
    requests: int
    acknowledged: int
    response_p50_ms: Spread
    response_p95_ms: Spread


class FaultBystander(Part):
    """What a fault did to requests that have nothing to do with the work: those meant to be sent while it was on."""

    contender: str
    scenario: str
    fault: str
    route: str
    requests_before: int = Field(description="intended in the window, at least half a second before the first fault")
    before_p50_ms: Spread
    before_p95_ms: Spread
    requests: int = Field(description="intended between an injection and when the stack could do work again")
    response_p50_ms: Spread = Field(description="of these, over all injections of a block")
    response_p95_ms: Spread


class Cell(Part):
    """One cell of a grid: what its figures and comparisons say stands under the name of its scenario."""

    grid: str
    scenario: str
    probe_work: str
    probe_seconds: float
    rate: float = Field(description="requests per second")


class Resources(Part):
    """What one role of a contender used; the figures are null where nothing was sampled."""

    contender: str
    scenario: str
    role: str = Field(description="`all` is API, workers and broker together: all that makes up the contender")
    cpu_s: Spread = Field(description="CPU seconds in window and drain, of processes that ended meanwhile too")
    cpu_s_per_1000_done: Spread = Field(description="CPU seconds in window and drain per 1,000 tasks done")
    peak_memory_bytes: Spread = Field(description="largest sum over the role's processes: PSS, or RSS without one")


class Broker(Part):
    """What a contender's broker used, as it says itself; the figures are null where it was not asked."""

    contender: str
    scenario: str
    peak_used_bytes: Spread = Field(description="the most that it had allocated at any time (`used_memory_peak`)")
    net_bytes: Spread = Field(description="in and out in window and drain, of all its clients")
    net_bytes_per_1000_done: Spread


class Backlog(Part):
    """Acknowledged tasks that had not ended, over time: the median over rounds, or one block with a fault."""

    contender: str
    scenario: str
    fault: str | None
    block: int | None = Field(description="the number of the block with a fault; null where rounds are put together")
    largest: Spread = Field(description="at any of the moments")
    at_window_end: Spread
    window_s: float
    injected_s: list[float] = Field(description="the faults, in seconds after the window's start")
    every_s: float = Field(description="from one moment to the next; the first is the window's start")
    median: list[float] = Field(description="at each moment of window and drain, over the blocks")
    low: list[int]
    high: list[int]


class Share(Part):
    """How many tasks had one fate, out of how many, with Wilson's 95 % interval."""

    contender: str
    scenario: str
    fault: str | None
    request_outcome: Literal["acknowledged", "indeterminate", "none"]
    fate: Fate
    count: int
    of: int | None = Field(description="tasks of requests with this outcome; null where nobody asked")
    low: Figure
    high: Figure


class FaultFigures(Part):
    """What one fault did to one contender, over all its valid blocks."""

    contender: str
    scenario: str
    fault: str
    injections: int = Field(description="confirmed ones")
    tasks: int = Field(description="acknowledged tasks of the window")
    fates: dict[Fate, int] = Field(description="what became of these")
    fates_without_a_yes: dict[Fate, int] = Field(
        description="what became of tasks whose request got no clear answer, was refused, or was never made"
    )
    ready_s: Spread = Field(description="over the injections: until the API said that all it needs is up; inf: never")
    back_to_normal_s: Spread = Field(
        description="over the injections: from each to the last disturbed request before a second without one; "
        "inf: not before the next injection or the end of the window"
    )


class Comparison(Part):
    """Two contenders on one figure: the ratio other ÷ baseline in each round in which both blocks are valid."""

    scenario: str
    route: str
    metric: str = Field(
        description="`bystander_p95_ms`, in a grid: of a block, the worse of p95 of /ping/loop and of /ping/thread"
    )
    bystander: bool = Field(default=False, description="of requests that have nothing to do with the work")
    primary: bool = Field(description="only primary comparisons get a verdict")
    baseline: str
    other: str
    baseline_figure: Figure = Field(description="median over the rounds compared")
    other_figure: Figure
    rounds: list[int]
    ratios: list[Figure]
    ratio: Figure = Field(description="geometric mean; null for fewer than two rounds or infinite figures")
    low: Figure = Field(description="95 % t-interval over the log ratios")
    high: Figure
    p: float | None = Field(description="two-sided, with Holm's correction over all verdicts of the run")
    verdict: Verdict | None = Field(description="null where none is given: not primary, or a quick run")
    reason: str = Field(description="why the verdict is unknown or not given")


class CapacityPoint(Part):
    """What a contender did at one rate, in one window."""

    block: int
    rate: float = Field(description="requests per second")
    fresh: bool = Field(description="in a block of its own; else in the ramp")
    valid: bool = Field(description="of the block")
    broken: list[str] | None = Field(description="what of the SLO did not hold; null: ramp, void, or generator late")
    requests: int
    errors: float = Field(description="share of requests that were not acknowledged")
    response_p95_ms: Figure
    done_p95_s: Figure
    goodput_per_s: Figure
    backlog_mid: Figure = Field(description="tasks acknowledged and not ended, mean of the window's second quarter")
    backlog_end: Figure = Field(description="the same of the last quarter")
    running_at_once: Figure = Field(description="tasks running, mean of the last quarter")
    cpu_share: Figure = Field(description="of the contender's CPUs, used by API, workers and broker in the window")
    bystander_p95_ms: Figure = Field(default=None, description="response time of the bystanders' route worse off")


class Capacity(Part):
    """The highest rate at which a contender kept the SLO, as an interval in requests per second."""

    contender: str
    scenario: str = Field(description="the kind of work")
    low: Figure = Field(description="highest rate that held in each block, with no failed one below; null: none did")
    high: Figure = Field(description="lowest rate that failed in each block, with no held one above; null: none did")
    low_blocks: int
    high_blocks: int
    undecided: list[float] = Field(description="rates between the two, which held in some blocks and failed in others")
    not_measured: list[float] = Field(description="rates above `low` and below `high` at which no block decided")
    limit: Limit = Field(description="what the contender met at the high end; the generator: `low` is a lower bound")
    cpu_share: Figure = Field(description="at the high end")
    running_at_once: Figure = Field(description="at the high end")
    ended: Literal["narrow", "interrupted", "failed", "time"] = Field(
        description="why the search ended; narrow: further blocks would not have told more"
    )
    curve: list[CapacityPoint]


class BlockFigures(Part):
    """One block and whether it can be believed."""

    number: int
    round: int
    contender: str
    scenario: str
    fault: str | None
    rate: float | None = Field(default=None, description="requests per second, where it is the block's own")
    state: Literal["planned", "finished", "failed"]
    valid: bool | None
    why: list[str]
    lateness_p99_ms: Figure = None
    loop_lag_p99_ms: Figure = None
    steal_share: Figure = Field(
        default=None, description="of the CPUs that the lab may use, taken by the hypervisor in the window"
    )
    others_share: Figure = Field(default=None, description="of the contender's CPUs, used by others in the window")
    unsent: int | None = None


class Latency(Part):
    """Percentiles of response time in ms; inf: the percentile falls on a request that was not acknowledged."""

    p50_ms: Figure = None
    p95_ms: Figure = None
    p99_ms: Figure = None
    p999_ms: Figure = Field(default=None, description="p99.9, for the eye: it is not judged")


class KnownServer(Part):
    """A server whose latency is known exactly, and what was reported of it."""

    server: str
    title: str
    requests: int = Field(description="of the schedule, in the window")
    truth: Latency = Field(description="by the schedule and the server's rule alone")
    lab: Latency = Field(description="what the lab reports, from the intended time")
    closed_loop: Latency = Field(description="what Locust's own closed loop reports: ten users, `constant_throughput`")
    outcomes: dict[str, int] = Field(description="requests by what became of them, by the server's rule")
    wrong: list[str] = Field(description="where the lab is out of bounds; empty where it is within")


class Planted(Part):
    """Faults of one kind that were planted in a copy of a real block's files, and what was found there."""

    contender: str
    what: str
    planted: int
    found: int
    invented: int = Field(description="found where nothing of the kind was planted")

    @property
    def wrong(self) -> list[str]:
        """What was missed, and what was found though nobody planted it."""
        where = f"{self.contender}, {self.what}"
        missed = [f"{where}: {self.found} of {self.planted} were found."] if self.found < self.planted else []
        invented = [f"{where}: {self.invented} were found that nobody had planted."] if self.invented else []
        return missed + invented


class Cost(Part):
    """What journal and sampler cost: one figure of a contender with them ÷ without them, in paired rounds."""

    contender: str
    metric: str
    rounds: int
    instrumented: Figure = Field(description="with journal and sampler: the median over the rounds")
    bare: Figure = Field(description="without")
    ratio: Figure = Field(description="instrumented ÷ bare, the geometric mean; null for fewer than two rounds")
    low: Figure = Field(description="95 % t-interval over the log ratios")
    high: Figure


class Generator(Part):
    """How fast the load generator is by itself, against a server that is not the limit."""

    processes: int = Field(description="Locust processes that send; more than one have a master beside them")
    rate: float | None = Field(
        description="the highest requests/s that were sent with a p99 lateness below 1 ms, each of them acknowledged; "
        "null: not even the lowest rate tried"
    )
    lateness_p99_ms: Figure = Field(description="at this rate")
    too_fast: float | None = Field(
        description="the lowest rate above it at which that was not so; null: the highest rate tried was no limit"
    )
    real_time: bool | None = Field(description="whether it ran before all that shares its CPU, at this rate")


class Compared(Part):
    """Comparisons of one kind, of which it is known what their verdicts should be, and what they were."""

    planned: int
    judged: int = Field(description="without those of which a verdict is unknown")
    different: int = Field(description="in which a difference was found")
    low: Figure = Field(description="Wilson's 95 % interval of their share in those judged; null where there are none")
    high: Figure
    done_ratio: Figure = Field(description="p95 of time to done, geometric mean over the rounds of all comparisons")
    done_ratio_low: Figure = Field(description="95 % t-interval over the log ratios")
    done_ratio_high: Figure


class AgainstItself(Part):
    """`lab calibrate --aa`: the verdicts, tried on a contender against itself and against itself with more work."""

    run: str = Field(description="name of the run directory in which it was made")
    made_at: datetime
    rounds: int = Field(description="of each comparison")
    alike: Compared = Field(description="the same contender twice: each difference that was found is a false alarm")
    unlike: Compared = Field(description="the same with 10 % more work per task, judged on time to done")
    wrong: list[str] = Field(default=[], description="what is wrong with the verdicts, or not known of them")


class Calibration(Part):
    """``calibration.json``: a test of the instrument on one machine. A run has the newest one of its machine.

    What came of `lab calibrate` and of `lab calibrate --aa` may be of different runs.
    """

    run: str = Field(description="name of the run directory in which it was made")
    made_at: datetime
    git_commit: str
    environment: Environment
    servers: list[KnownServer] = []
    planted: list[Planted] = []
    costs: list[Cost] = []
    generators: list[Generator] = Field(default=[], description="how fast the load generator is by itself")
    not_judged: list[str] = Field(default=[], description="what could not be tested, and why")
    aa: AgainstItself | None = Field(default=None, description="the verdicts, tried on what is alike and what is not")

    @property
    def on_known(self) -> bool:
        """Whether the instrument was tried on what is known exactly, and not the verdicts alone."""
        return bool(self.servers or self.planted or self.not_judged)

    @property
    def wrong(self) -> list[str]:
        """What is wrong with the instrument, one sentence each, and what is not known of it."""
        return [
            *(sentence for server in self.servers for sentence in server.wrong),
            *(sentence for planted in self.planted for sentence in planted.wrong),
            *self.not_judged,
            *(self.aa.wrong if self.aa else []),
        ]


class Summary(Part):
    """``summary.json``."""

    schema_version: int = Field(default=SUMMARY_SCHEMA, alias="schema")
    run: str = Field(description="name of the run directory")
    command: str
    reproduce: str = Field(description="the command that makes a run of the same plan")
    seed: int
    quick: bool
    interrupted: bool
    rounds_planned: int
    horizon_s: float
    grace_s: float = Field(default=GRACE_S, description="what a deploy gave each process, in seconds")
    contenders: list[Contender]
    limitations: list[str] = Field(description="what stands above the numbers")
    sentences: list[str] = Field(description="what the numbers mean, in words")
    routes: list[RouteFigures]
    bystanders: list[Bystander]
    resources: list[Resources]
    brokers: list[Broker] = Field(description="of the contenders that have one")
    backlogs: list[Backlog] = Field(description="of the contenders that have a journal")
    shares: list[Share]
    faults: list[FaultFigures]
    fault_bystanders: list[FaultBystander] = []
    comparisons: list[Comparison]
    cells: list[Cell] = Field(default=[], description="the scenarios that are cells of a grid")
    slo: Slo | None = Field(default=None, description="of a search for capacities")
    capacities: list[Capacity] = []
    blocks: list[BlockFigures]
    calibration: Calibration | None = Field(default=None, description="of the instrument, on this machine")

    @property
    def in_a_grid(self) -> set[str]:
        """The scenarios that are cells of a grid: a map shows them, and they have no tables of their own."""
        return {cell.scenario for cell in self.cells}

    def to_json(self) -> str:
        """Return the text of ``summary.json``."""
        return self.model_dump_json(indent=2, by_alias=True) + "\n"
