"""The run directory: what one run leaves, and the typed shape of its ``run.json``.

``runs/<UTC time>-<command>/`` is complete at every moment: ``run.json`` is replaced atomically, a block's folder
is filled before the block is listed in it, so an interrupted run keeps its finished blocks and says so.
"""

import errno
import fcntl
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from lab.errors import LabError

RUN_SCHEMA = 1
# What a write may meet on a file that was opened; the error then names no file.
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
# Commands whose runs test the instrument, and give no verdict on a contender.
CALIBRATE, CALIBRATE_AA = "calibrate", "calibrate-aa"
CALIBRATIONS = {CALIBRATE, CALIBRATE_AA}
# What docker waits by default.
GRACE_S = 10.0


class Record(BaseModel):
    """A part of ``run.json``: unknown keys are an error, so that an old reader never misreads a newer file."""

    model_config = ConfigDict(extra="forbid")


class Placement(Record):
    """Which CPUs the two sides of the experiment run on; ``pinned`` is false where the system cannot pin."""

    contender: list[int]
    generator: list[int]
    pinned: bool


class Environment(Record):
    """The machine and what was installed on it."""

    cpu: str
    cores: int
    affinity: list[int]
    kept_awake: bool = Field(
        default=False, description="whether the generator's CPUs are kept awake under load, as on a virtual machine"
    )
    os: str
    python: str
    memory_bytes: int
    packages: dict[str, str]
    servers: dict[str, str]
    placement: Placement


class ContenderRecord(Record):
    """A contender as it was run: exact commands and settings, and how many tasks it can run at once."""

    name: str
    title: str
    api: list[str] = []
    workers: list[list[str]] = []
    url: str | None = Field(default=None, description="where it runs already; the lab then starts nothing")
    health: str = Field(default="/health", description="path that answers 200 once it can do work")
    data: str | None = Field(default=None, description="DATA_DIR of one that runs already, where it can be read")
    journal: bool = Field(default=True, description="whether it journals its tasks where the lab can read it")
    broker: Literal["redis"] | None = None
    env: dict[str, str] = {}
    folder: str | None = Field(
        default=None, description="where its commands are run: beside the file that describes it"
    )
    slots: str = Field(description="how many tasks can run at once, in words")


class RequestRecord(Record):
    """One kind of request of a scenario that describes its own."""

    method: Literal["GET", "POST"]
    path: str
    weight: int = 1
    body: dict[str, Any] | None = Field(default=None, description="sent as JSON")
    tasks: int = Field(default=0, description="how many tasks it causes, by the ids of docs/whats-here.md")


class ScenarioRecord(Record):
    """The load of a block."""

    name: str
    users: str = Field(description="the Locust user class that builds the requests")
    rate: float = Field(description="requests per second, bystanders not counted")
    arrivals: Literal["poisson", "constant"]
    warmup_s: float
    duration_s: float
    probe_work: str | None = Field(default=None, description="for the users `probe`: what a task does")
    probe_seconds: float | None = Field(default=None, description="and for how long")
    requests: list[RequestRecord] = Field(default=[], description="for the users `requests`: what they ask for")
    bystanders: bool = Field(default=True, description="whether /ping/loop and /ping/thread are asked for beside it")
    horizon_s: float | None = Field(default=None, description="how long after the window a task may end, here")
    grid: str | None = Field(default=None, description="the scenario of whose grid this is one cell")
    description: str = ""


class Slo(Record):
    """What a contender must keep to for a rate to hold; its backlog must not grow either."""

    response_p95_ms: float = 250.0
    errors: float = Field(default=0.005, description="share of requests that are not acknowledged")
    done_p95_s: float = 5.0


class Plan(Record):
    """What a run was asked to do; with ``seed`` it fixes the order of blocks and every arrival."""

    command: str
    seed: int
    rounds: int
    quick: bool
    exploratory: bool = Field(
        default=False, description="seen in the web UI, the contenders side by side on shared CPUs: no verdicts"
    )
    stack: Literal["local", "compose", "running"]
    contenders: list[ContenderRecord]
    scenarios: list[ScenarioRecord]
    contenders_file: str | None = Field(default=None, description="where the contenders are one's own, as given")
    scenarios_folder: str | None = Field(default=None, description="where the scenarios are one's own, as given")
    horizon_s: float = Field(description="how long after the window a task may still end, unless a scenario says")
    faults: list[str] = []
    injections: int = Field(
        default=4, description="how often a fault comes in one block: one kill has a luck of its own"
    )
    may_load: list[str] = Field(default=[], description="hosts other than this machine that may be loaded")
    generators: int = Field(
        default=1, description="Locust workers that share each block's load; 1 is Locust without workers"
    )
    void_repeats: int = Field(
        default=2, description="how many void blocks are measured again, so that one hiccup does not cost a verdict"
    )
    fault_repeats: int = Field(default=1, description="fault blocks per contender and fault")
    fault_duration_s: float | None = Field(
        default=None, description="seconds of the measured window of a fault block, in place of each fault's own"
    )
    grace_s: float = Field(
        default=GRACE_S, description="what a deploy gives each process between SIGTERM and SIGKILL, in seconds"
    )
    slo: Slo | None = Field(default=None, description="of a search for capacities, which has a rate for each block")
    budget_s: float | None = Field(default=None, description="seconds that such a search may take")


class RampStep(Record):
    """A load of one rate in a block in which several follow on another on the same stack."""

    rate: float
    window_start_ns: int
    window_end_ns: int
    drained_ns: int
    held: bool = Field(description="by a glance at the samples and the journal; if not, it was the last")


class BrokerUsage(Record):
    """What a contender's broker used in a block, as it says itself."""

    memory_bytes: int = Field(description="the most that it had allocated at any time since its start")
    net_bytes: int = Field(description="in and out in window and drain; what the lab asked it is in it")


class BlockRecord(Record):
    """One block: one contender, freshly started, under one load for one period."""

    number: int
    round: int = Field(description="from 1; 0 for a fault block, which belongs to no round")
    contender: str
    scenario: str
    fault: str | None = None
    rate: float | None = Field(default=None, description="requests per second, in place of the scenario's own")
    ramp: list[RampStep] = Field(default=[], description="the loads of a ramp, in place of the scenario's one")
    seed: int = Field(description="what the block's arrivals and requests are drawn from")
    repeat_of: int | None = Field(default=None, description="the number of the void block that this one repeats")
    folder: str = Field(description="relative to the run directory")
    state: Literal["planned", "finished", "failed"]
    valid: bool | None = None
    why: list[str] = Field(default=[], description="why the block is void, or why it failed")
    window_start_ns: int | None = None
    window_end_ns: int | None = None
    left_over: int = Field(
        default=0, description="tasks of blocks before that had not ended when this one began, on a stack that runs on"
    )
    injections: int | None = Field(default=None, description="how often the fault of a fault block came about")
    drained_ns: int | None = Field(default=None, description="when the last task ended or the horizon passed")
    broker: BrokerUsage | None = Field(default=None, description="null without one, or where it did not answer")
    instrument: dict[str, float] = Field(default={}, description="lateness, loop lag, steal: see docs/method.md")


class RunRecord(Record):
    """``run.json``."""

    schema_version: int = RUN_SCHEMA
    started_at: datetime
    ended_at: datetime | None = None
    interrupted: bool = False
    git_commit: str
    plan: Plan
    environment: Environment
    blocks: list[BlockRecord]
    searched: list[tuple[str, str]] = []  # contender and scenario, where a search for a capacity is over


class Injection(Record):
    """One injection of a fault, and what was seen of it: ``faults.json`` of a block has a list of them.

    ``absent`` are the parts that it is for and that did not run: what a contender's own parts do is its result.
    """

    fault: str
    injected_ns: int
    pids: list[int] = []
    ended_ns: int | None = None  # when it had come about: the last of the processes was gone, or stood still
    healed_ns: int | None = None  # when the stack said again that it can do work
    confirmed: bool = False
    absent: list[str] = []

    @model_validator(mode="after")
    def _heals_after_it_began(self) -> Self:
        if self.healed_ns is not None and self.healed_ns < self.injected_ns:
            raise ValueError("it is healed before it was injected")
        return self


INJECTIONS = TypeAdapter(list[Injection])


def read_faults(block: Path) -> list[Injection]:
    """Return what was injected in a block. Raises LabError where its ``faults.json`` is damaged."""
    path = block / "faults.json"
    if not path.exists():
        return []
    try:
        return INJECTIONS.validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        wrong = error.errors()[0]
        where = "".join(f"[{part!r}]" for part in wrong["loc"])
        raise LabError(f"{path} is damaged: {f'{where}: ' if where else ''}{wrong['msg']}.") from error


class RunDir:
    """A run directory on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, parent: Path, command: str, run: RunRecord | None = None) -> Self:
        """Make ``parent/<UTC time>-<command>``, with its run.json if there is one: the folder is there whole or not.

        It waits for the next second where there is one of this second, another lab's too. Raises OSError or LabError
        where the disk does not let it.
        """
        draft = cls(parent / f".{command}-{secrets.token_hex(8)}.draft")
        (draft.path / "blocks").mkdir(parents=True)
        if run is not None:
            draft.write(run)
        while True:
            try:
                return cls(draft.path.rename(parent / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{command}"))
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            time.sleep(0.05)

    def read(self) -> RunRecord:
        """Return ``run.json``. Raises FileNotFoundError, or ValueError where it is not one of ours."""
        return RunRecord.model_validate_json((self.path / "run.json").read_text())

    def write(self, run: RunRecord) -> None:
        """Replace ``run.json`` in one step."""
        self.write_text("run.json", run.model_dump_json(indent=2))

    def write_text(self, name: str, text: str) -> None:
        """Replace a file of the run in one step, so that a reader sees the old or the new, never half.

        Raises LabError where the disk does not let it.
        """
        draft = self.path / f".{name}.draft"
        try:
            draft.write_text(text, encoding="utf-8")
            draft.replace(self.path / name)
        except OSError as error:
            raise LabError(f"{self.path / name} could not be written: {error.strerror}.") from error

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Keep other labs from measuring into this directory, and name it where its disk fails meanwhile.

        Raises LabError where another lab does, or for a write that failed.
        """
        with (self.path / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LabError(f"{self.path} is being measured by another lab.") from None
            try:
                yield
            except OSError as error:
                if error.filename or error.errno not in DISK_ERRORS:
                    raise
                raise LabError(f"{self.path} could not be written to: {error.strerror}.") from error

    def block(self, record: BlockRecord) -> Path:
        """Return the folder of a block."""
        return self.path / record.folder


def block_folder(number: int, contender: str, what: str) -> str:
    """Return the folder of a block, relative to the run: ``blocks/<n>-<contender>-<scenario|fault>``."""
    return f"blocks/{number:02d}-{contender}-{what}"
