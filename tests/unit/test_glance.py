"""What a ramp makes of a load before it is settled: from its samples, and the ends that the journal has."""

import json
import math
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import pytest

from lab.rundir import Slo
from lab.search import glance
from lab.sustained import broken

MS = 1_000_000
WINDOW_S = 3
RATE = 20


def write(file: Path, **changes: Any) -> dict[str, int]:
    """Write samples of 20 requests/s, each answered after 5 ms; return by task id when each was due."""
    header = {"window_start_ns": 0, "window_end_ns": WINDOW_S * 1_000 * MS}
    rows: list[dict[str, Any]] = [
        {"seq": n, "stream": "load", "phase": "window", "request_id": str(UUID(int=n)), "tasks": 1,
         "intended_ns": n * 50 * MS, "ended_ns": n * 50 * MS + 5 * MS, "outcome": "acknowledged"} | changes
        for n in range(RATE * WINDOW_S)
    ]  # fmt: skip
    aside = [rows[0] | {"stream": "bystander", "tasks": 0}, rows[0] | {"phase": "warmup"}]
    lines = [header, *aside, *rows, {"loop_lag_p99_ms": 0.1, "workers_lost": 0}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {str(uuid5(UUID(row["request_id"]), "0")): row["intended_ns"] for row in rows}


def test_a_load_that_is_carried_holds(tmp_path: Path) -> None:
    """Tasks that take 100 ms, while nothing piles up; bystanders and warm-up do not count."""
    due = write(tmp_path / "samples")
    seen = glance(RATE, tmp_path / "samples", {task: due_ns + 105 * MS for task, due_ns in due.items()})
    assert (seen.requests, seen.errors, seen.response_p95_ms) == (60, 0, 5)
    assert seen.done_p95_s == pytest.approx(0.105)
    assert broken(seen, Slo(), WINDOW_S) == []


def test_a_load_of_twice_what_is_carried_does_not_hold(tmp_path: Path) -> None:
    """Its backlog grows long before time to done is out of bounds."""
    due = write(tmp_path / "samples")
    seen = glance(RATE, tmp_path / "samples", {task: (n + 1) * 100 * MS for n, task in enumerate(due)})
    assert (seen.done_p95_s or math.inf) < Slo().done_p95_s
    assert broken(seen, Slo(), WINDOW_S) == ["backlog grows"]


def test_tasks_that_never_ended_are_infinitely_late(tmp_path: Path) -> None:
    """More than one in twenty."""
    due = write(tmp_path / "samples")
    ended_ns = {task: due_ns + 105 * MS for n, (task, due_ns) in enumerate(due.items()) if n % 10}
    assert "time to done" in broken(glance(RATE, tmp_path / "samples", ended_ns), Slo(), WINDOW_S)


def test_without_a_journal_only_answers_count(tmp_path: Path) -> None:
    """Refused ones are errors."""
    write(tmp_path / "samples")
    seen = glance(RATE, tmp_path / "samples", None)
    assert (seen.done_p95_s, seen.backlog_end) == (None, None)
    assert broken(seen, Slo(), WINDOW_S) == []
    write(tmp_path / "samples", outcome="refused")
    assert broken(glance(RATE, tmp_path / "samples", None), Slo(), WINDOW_S) == ["response", "errors"]
