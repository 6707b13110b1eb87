"""The typed shape of ``summary.json``: every figure of the report.

A figure is a number, ``null`` where there is none (too few requests, nothing measured), or the text ``"inf"``: a
percentile that falls on a request that was never acknowledged or a task that never ended. JSON knows no infinity.
"""

import math
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema

from lab.rundir import GRACE_S, Environment
from lab.stats import Verdict

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
    route: str
    requests: int
    response_p50_ms: Spread
    response_p95_ms: Spread


class Resources(Part):
    """What one role of a contender used; the figures are null where nothing was sampled."""

    contender: str
    scenario: str
    role: str = Field(description="`all` is API, workers and broker together: all that makes up the contender")
    cpu_s_per_1000_done: Spread = Field(description="CPU seconds in window and drain per 1,000 tasks done")
    peak_memory_bytes: Spread = Field(description="largest sum over the role's processes: PSS, or RSS without one")


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
    metric: str
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


class BlockFigures(Part):
    """One block and whether it can be believed."""

    number: int
    round: int
    contender: str
    scenario: str
    fault: str | None
    state: Literal["planned", "finished", "failed"]
    valid: bool | None
    why: list[str]
    lateness_p99_ms: Figure = None
    loop_lag_p99_ms: Figure = None
    steal_share: Figure = None
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


class Calibration(Part):
    """``calibration.json``: a test of the instrument on one machine. A run has the newest one of its machine."""

    run: str = Field(description="name of the run directory in which it was made")
    made_at: datetime
    git_commit: str
    environment: Environment
    servers: list[KnownServer]
    planted: list[Planted]
    costs: list[Cost]
    not_judged: list[str] = Field(description="what could not be tested, and why")

    @property
    def wrong(self) -> list[str]:
        """What is wrong with the instrument, one sentence each, and what is not known of it."""
        return [
            *(sentence for server in self.servers for sentence in server.wrong),
            *(sentence for planted in self.planted for sentence in planted.wrong),
            *self.not_judged,
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
    shares: list[Share]
    faults: list[FaultFigures]
    comparisons: list[Comparison]
    blocks: list[BlockFigures]
    calibration: Calibration | None = Field(default=None, description="of the instrument, on this machine")

    def to_json(self) -> str:
        """Return the text of ``summary.json``."""
        return self.model_dump_json(indent=2, by_alias=True) + "\n"
