"""Real blocks for tests: a plan's blocks, measured as `lab` does it, by real processes."""

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from lab import environment
from lab.environment import available_cpus, place
from lab.interrupt import Interrupt
from lab.progress import Progress
from lab.run import Experiment, plan_blocks
from lab.rundir import BlockRecord, ContenderRecord, Plan, RequestRecord, RunDir, RunRecord, ScenarioRecord
from lab.stacks.local import Servers

PLACEMENT = place(available_cpus())


class NoInterrupt(Interrupt):
    """Ctrl-C is pytest's."""

    def __init__(self) -> None:
        self.asked = False


def load_of(users: str, rate: float, **other: Any) -> ScenarioRecord:
    """Return a short load; five seconds after one of warm-up."""
    fields = {"name": users, "users": users, "rate": rate, "arrivals": "constant", "warmup_s": 1, "duration_s": 5}
    return ScenarioRecord.model_validate(fields | other)


def gets(rate: float, path: str = "/work", **other: Any) -> ScenarioRecord:
    """Return a short load that asks for a path and causes no task: a second after a tenth of warm-up."""
    asked = {"requests": [RequestRecord(method="GET", path=path)], "bystanders": False}
    return load_of("requests", rate, **({"warmup_s": 0.1, "duration_s": 1} | asked | other))


def measure_block(
    shared: Servers, out: Path, contender: ContenderRecord, scenario: ScenarioRecord, **changes: Any
) -> tuple[BlockRecord, Path]:
    """Run one block of the contender as `lab` does; return its record and its folder. ``changes`` are the plan's.

    Where these let a void block be measured again, it is the last of them.
    """
    default: dict[str, Any] = {
        "command": "compare", "seed": 7, "rounds": 0 if changes.get("faults") else 1, "quick": False, "stack": "local",
        "contenders": [contender], "scenarios": [scenario], "horizon_s": 15, "void_repeats": 0,
    }  # fmt: skip
    plan = Plan.model_validate(default | changes)
    directory = RunDir.create(out, plan.command)
    run = RunRecord(
        started_at=datetime.now(UTC),
        git_commit=environment.git_commit(),
        plan=plan,
        environment=environment.describe(PLACEMENT, shared.versions),
        blocks=plan_blocks(plan),
    )
    with open(os.devnull, "w") as nowhere:
        progress = Progress(Console(file=nowhere), {})
        Experiment(directory, run, shared.supervisor, shared, NoInterrupt(), progress).measure()
    block = directory.read().blocks[-1]
    return block, directory.block(block)


def only(sentences: Iterable[str], fragment: str) -> None:
    """Check that there is one sentence, and which."""
    (sentence,) = sentences
    assert fragment in sentence
