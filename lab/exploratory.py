"""Exploratory runs: what was seen of a load of the web UI, saved as a run directory with its report.

The stacks go on running, and had other loads before: the evidence is a copy, of this load's own tasks alone.
"""

import io
import json
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import duckdb

from lab import environment, ledger, load, report, validity
from lab.calibration import cite
from lab.drain import JournalTail, drain
from lab.globs import no_glob
from lab.rundir import (
    BlockRecord,
    Environment,
    Injection,
    Placement,
    Plan,
    RunDir,
    RunRecord,
    ScenarioRecord,
    block_folder,
)
from lab.stacks.local import LocalStack

# How long tasks that have not ended when the run is saved are waited for.
HORIZON_S = 20.0
# The events of the journal that end nothing.
UNDER_WAY = ("accepted", "started")


@dataclass(frozen=True)
class Seen:
    """One contender in a load that is over: the faults that were done to it, and its acknowledged tasks."""

    stack: LocalStack
    tasks: set[str] = field(default_factory=set)
    faults: list[Injection] = field(default_factory=list)


def save(samples: Path, seen: list[Seen], out: Path, placement: Placement, versions: dict[str, str]) -> RunDir:
    """Make a run directory under ``out`` of a whole samples file, one block per contender, and write its report.

    Raises LabError, OSError or duckdb.Error where that cannot be done; then no run directory is left.
    """
    header = load.read_header(samples)
    run = _plan_run(header, samples, seen, environment.describe(placement, versions))
    directory = RunDir.create(out, "exploratory", run)
    try:
        cite(directory, run.environment)
        for block, contender in zip(run.blocks, seen, strict=True):
            _fill(directory.block(block), block, contender, samples)
        directory.write(run)
        report.write(directory.path)
    except BaseException:
        shutil.rmtree(directory.path)
        raise
    return directory


def _plan_run(header: dict[str, Any], samples: Path, seen: list[Seen], where: Environment) -> RunRecord:
    start_ns = header["window_start_ns"]
    arrivals, last_ns = _arrivals(samples, seen[0].stack.contender.name)
    end_ns = max(start_ns, last_ns) + 1
    duration_s = (end_ns - start_ns) / 1e9
    scenario = ScenarioRecord(
        name=header["scenario"],
        users=header["scenario"],
        rate=round(arrivals / duration_s, 1),
        arrivals=header["arrivals"],
        warmup_s=0,
        duration_s=round(duration_s, 1),
        bystanders=header["bystanders"] > 0,
        description="a load of the web UI: its rate is what came on average",
    )
    started_at = datetime.fromtimestamp(header["wall_ns"] / 1e9, UTC)
    return RunRecord(
        started_at=started_at,
        ended_at=started_at + timedelta(seconds=duration_s),
        git_commit=environment.git_commit(),
        plan=Plan(
            command="up",
            exploratory=True,
            seed=header["seed"],
            rounds=1,
            quick=False,
            stack="local",
            contenders=[one.stack.contender for one in seen],
            scenarios=[scenario],
            horizon_s=HORIZON_S,
        ),
        environment=where,
        blocks=[
            BlockRecord(
                number=number,
                round=1,
                contender=one.stack.contender.name,
                scenario=scenario.name,
                seed=header["seed"],
                folder=block_folder(number, one.stack.contender.name, scenario.name),
                state="planned",
                window_start_ns=start_ns,
                window_end_ns=end_ns,
                injections=len(one.faults),
                instrument=load.read_footer(samples),
            )
            for number, one in enumerate(seen, start=1)
        ],
    )


def _arrivals(samples: Path, contender: str) -> tuple[int, int]:
    """Return how many requests were meant for a contender, bystanders aside, and when the last one was."""
    times = [
        row["intended_ns"]
        for row in map(json.loads, samples.read_text().splitlines())
        if row.get("stream") == "load" and row["contender"] == contender
    ]
    return len(times), max(times, default=0)


def _fill(folder: Path, block: BlockRecord, seen: Seen, samples: Path) -> None:
    """Write a block's files, and settle it."""
    stack = seen.stack
    shutil.copytree(stack.folder / "logs", folder / "logs")
    requests = folder / "requests.parquet"
    load.samples_to_parquet(samples, requests, contender=block.contender)
    (folder / "faults.json").write_text(json.dumps([injection.model_dump() for injection in seen.faults], indent=2))
    horizon_ns = time.monotonic_ns() + round(HORIZON_S * 1e9)
    drain(JournalTail(stack.journal), seen.tasks, horizon_ns, stack.broker_is_empty, check=lambda: None)
    evidence = folder / "evidence"
    moment_ns = stack.copy_evidence(evidence)
    own = _own_tasks(requests)
    for file in [*evidence.glob("journal/*.jsonl"), *evidence.glob("*.log"), *evidence.glob("*.jsonl")]:
        file.write_bytes(b"".join(_of_tasks(file.read_bytes(), own, moment_ns)))
    block.instrument["journal_lines_unreadable"] = ledger.settle(folder, journal=stack.contender.journal)
    # The stack was not stopped: its last task's end stands for the end of the drain, however late the run is saved.
    block.drained_ns = max(block.window_end_ns or 0, _last_end(folder / "tasks.parquet"))
    block.why = validity.judge(folder, block)
    block.valid, block.state = True, "finished"  # no verdict rests on it: why it were void is among the limitations


def _own_tasks(requests: Path) -> set[str]:
    """Return the ids of all tasks that the requests may have caused."""
    asked = duckdb.execute(
        "SELECT request_id, tasks FROM read_parquet($file) WHERE tasks > 0", {"file": no_glob(requests)}
    ).fetchall()
    return {str(uuid5(UUID(request_id), str(number))) for request_id, tasks in asked for number in range(tasks)}


def _of_tasks(written: bytes, tasks: set[str], until_ns: int) -> Iterable[bytes]:
    """Yield the whole lines of a file that are of no task, or of one of these and not of its end after a moment.

    Of what ended while the files were copied one may have its end and another not; that it was begun, all have. A line
    that cannot be read is of no task: the ledger counts it.
    """
    for line in io.BytesIO(written):
        if not line.endswith(b"\n"):
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        match row:
            case {"task_id": str(task_id), "event": str(event)} if event in UNDER_WAY:
                counts = task_id in tasks
            case {"task_id": str(task_id), "t_ns": int(t_ns)}:
                counts = task_id in tasks and t_ns <= until_ns
            case {"task_id": str(task_id)}:
                counts = task_id in tasks
            case _:
                counts = True
        if counts:
            yield line


def _last_end(tasks: Path) -> int:
    row = duckdb.execute("SELECT max(ended_ns) FROM read_parquet($file)", {"file": no_glob(tasks)}).fetchone()
    return (row and row[0]) or 0
