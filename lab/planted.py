"""Faults planted in a copy of a block's files: whether ledger and validity find them all, and nothing else."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import duckdb

from lab import ledger, validity
from lab.clock import ClockReading
from lab.report.summary import Planted
from lab.rundir import BlockRecord

OF_EACH = 5
# What is planted, and the fate that the ledger must then give.
FATES = {"loss": "lost", "duplicate": "duplicated", "late recovery": "recovered"}
ENDED_LATE_NS = 12_000_000_000
SECOND_NS = 1_000_000_000
CLOCK_STEPS_NS = (SECOND_NS, -SECOND_NS)

Line = dict[str, Any]
Known = Mapping[str, tuple[str, str]]  # fate and agreement of each task, by its id


def plant_and_look(
    folder: Path, block: BlockRecord, seed: int, rules: ledger.Rules = ledger.RULES
) -> list[Planted] | None:
    """Return what was planted in a copy of a settled, valid block, and what was found there.

    None where the block has too few tasks to plant anything in. The block itself stays as it is.
    """
    whose = _draw(folder, seed)
    if whose is None:
        return None
    with TemporaryDirectory(prefix=".planted-", dir=folder.parent) as place:
        copy = Path(place) / "block"
        shutil.copytree(folder, copy)
        _plant(copy, whose)
        ledger.settle(copy, rules)
        before, after = _fates(folder), _fates(copy)
        found = [_compare(block.contender, what, fate, whose, before, after) for what, fate in FATES.items()]
        return [*found, _anything_else(block.contender, whose, before, after), _clock_steps(copy, block)]


def _draw(folder: Path, seed: int) -> dict[str, str] | None:
    """Return what is planted in which task, by its id: tasks that were done and are the only ones of their request."""
    rows = duckdb.execute(
        "SELECT min(task_id) FROM read_parquet($tasks) WHERE request_id IS NOT NULL GROUP BY request_id "
        "HAVING count(*) = 1 AND bool_and(request_outcome = 'acknowledged' AND fate = 'done' AND agreement = 'equal') "
        "ORDER BY 1",
        {"tasks": str(folder / "tasks.parquet")},
    ).fetchall()
    kinds = [what for what in FATES for _ in range(OF_EACH)]
    if len(rows) < len(kinds):
        return None
    return dict(zip((task for (task,) in Random(seed).sample(rows, len(kinds))), kinds, strict=True))


def _plant(copy: Path, whose: Mapping[str, str]) -> None:
    late = [task for task, what in whose.items() if what == "late recovery"]
    _time_out(copy, late)
    evidence = copy / "evidence"
    for file in [*evidence.glob("journal/*.jsonl"), *evidence.glob("*.log"), *evidence.glob("*.jsonl")]:
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        new = [other for line in lines for other in _planted(line, whose.get(str(line.get("task_id"))), file.name)]
        if file.name == "processes.jsonl":
            new = [line if line["event"] == "started" else _later(line) for line in new]
        file.write_text("".join(json.dumps(line) + "\n" for line in new))


def _planted(line: Line, what: str | None, file: str) -> list[Line]:
    """Return the lines that stand for a line of a task's: an event of the journal, or a trace of its effect."""
    if what is None or line.get("event") == "accepted":
        return [line]
    if what == "loss":
        return []
    if what == "duplicate":
        return [line] if file == "rows.jsonl" else [line, line]  # a row that is written twice is there once
    return [_later(line) if "t_ns" in line else line]


def _later(line: Line) -> Line:
    """Return a record that is of so much later; in a block without faults, which would have to be later too."""
    return line | {"t_ns": line["t_ns"] + ENDED_LATE_NS}


def _time_out(copy: Path, tasks: list[str]) -> None:
    """Let the requests of these tasks have got no answer within 10 s."""
    requests, draft = copy / "requests.parquet", copy / "requests-drafted.parquet"
    with duckdb.cursor() as db:
        owners = "SELECT request_id FROM read_parquet($tasks) WHERE list_contains($late, task_id)"
        found = db.execute(owners, {"tasks": str(copy / "tasks.parquet"), "late": tasks}).fetchall()
        timed_out = "list_contains($timed_out, request_id)"
        rows = db.sql(
            f"""
            SELECT * REPLACE (
                if({timed_out}, 'indeterminate', outcome) AS outcome, if({timed_out}, 'timed out', error) AS error,
                if({timed_out}, NULL, status) AS status,
                if({timed_out}, sent_ns + 10_000_000_000, ended_ns) AS ended_ns)
            FROM read_parquet($requests)
            """,  # noqa: S608 - the condition is a constant; values go in as parameters
            params={"requests": str(requests), "timed_out": [request for (request,) in found]},
        )
        rows.write_parquet(str(draft))
    draft.replace(requests)


def _fates(folder: Path) -> Known:
    rows = duckdb.execute(
        "SELECT task_id, fate, agreement FROM read_parquet($tasks)", {"tasks": str(folder / "tasks.parquet")}
    ).fetchall()
    return {task: (fate, agreement) for task, fate, agreement in rows}


def _compare(contender: str, what: str, fate: str, whose: Mapping[str, str], before: Known, after: Known) -> Planted:
    """Return how many of one kind were found, and how many tasks have become so in which nobody planted it."""
    own = {task for task, planted in whose.items() if planted == what}
    found = sum(after.get(task) == (fate, "equal") for task in own)
    invented = sum(after[task][0] == fate and before.get(task) != after[task] for task in after.keys() - own)
    return Planted(contender=contender, what=what, planted=len(own), found=found, invented=invented)


def _anything_else(contender: str, whose: Mapping[str, str], before: Known, after: Known) -> Planted:
    """Return how many tasks in which nothing was planted have become something that was never planted."""
    others = (before.keys() | after.keys()) - whose.keys()
    changed = [after.get(task, ("gone", "")) for task in others if before.get(task) != after.get(task)]
    invented = sum(fate not in FATES.values() for fate, _ in changed)
    return Planted(contender=contender, what="anything else", planted=0, found=0, invented=invented)


def _clock_steps(copy: Path, block: BlockRecord) -> Planted:
    """Let the clock have stepped by a second either way; what makes the block void besides that is invented."""
    found = invented = 0
    for step_ns in CLOCK_STEPS_NS:
        stepped = block.model_copy(update={"instrument": block.instrument | {"clock_step_ms": _read_step_ms(step_ns)}})
        reasons = validity.judge(copy, stepped)
        told = sum(reason.startswith("The clock stepped") for reason in reasons)
        found += told == 1
        invented += len(reasons) - told
    return Planted(
        contender=block.contender,
        what="clock step",
        planted=len(CLOCK_STEPS_NS),
        found=found,
        invented=invented,
    )


def _read_step_ms(step_ns: int) -> float:
    """Return the step that two readings of the clocks tell, a second apart, between which the wall clock stepped."""
    before = ClockReading.now()
    after = replace(before, wall_ns=before.wall_ns + SECOND_NS + step_ns, monotonic_ns=before.monotonic_ns + SECOND_NS)
    return before.step_ms(after)
