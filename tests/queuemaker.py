"""Makes settled blocks of contenders with a known number of slots, under evenly spaced arrivals."""

import heapq
from pathlib import Path
from typing import Any

from tests.blockmaker import MS, REQUEST_COLUMNS, write_parquet
from tests.runmaker import RESOURCE_COLUMNS

WINDOW_S = 8
START_NS = 1_000 * MS
END_NS = START_NS + WINDOW_S * 1_000 * MS
HORIZON_NS = END_NS + 6_000 * MS
TASK_COLUMNS = {
    "task_id": "VARCHAR", "request_id": "VARCHAR", "route": "VARCHAR", "job": "VARCHAR", "position": "INTEGER",
    "phase": "VARCHAR", "request_outcome": "VARCHAR", "fate": "VARCHAR", "n_effects": "INTEGER",
    "n_journal": "INTEGER", "attempts": "INTEGER", "intended_ns": "BIGINT", "accepted_ns": "BIGINT",
    "started_ns": "BIGINT", "ended_ns": "BIGINT", "agreement": "VARCHAR", "last_seen": "VARCHAR",
}  # fmt: skip


def queue_block(
    folder: Path,
    rate: float,
    slots: int,
    task_s: float = 0.1,
    busy: float = 0.5,
    response_ms: float = 5.0,
    warmup_s: float = 0.0,
) -> Path:
    """Write a block of so many slots, first come, first served; what has not ended 6 s after the window never does.

    API and worker use half of ``busy`` of a CPU each. What comes in the warm-up has tasks as well.
    """
    folder.mkdir(parents=True, exist_ok=True)
    requests: list[dict[str, Any]] = []
    tasks: list[dict[str, Any]] = []
    free_ns = [0] * slots
    for number in range(-round(rate * warmup_s), round(rate * WINDOW_S)):
        intended_ns = START_NS + round(number / rate * 1e9)
        acknowledged_ns = intended_ns + round(response_ms * MS)
        started_ns = max(acknowledged_ns, heapq.heappop(free_ns))
        ended_ns = started_ns + round(task_s * 1e9)
        heapq.heappush(free_ns, ended_ns)
        requests.append(_request(number, intended_ns, acknowledged_ns))
        tasks.append(_task(number, intended_ns, acknowledged_ns, started_ns, ended_ns))
    for row in (*requests, *tasks):
        row["phase"] = "window" if row["intended_ns"] >= START_NS else "warmup"
    write_parquet(requests, REQUEST_COLUMNS, folder / "requests.parquet")
    write_parquet(tasks, TASK_COLUMNS, folder / "tasks.parquet")
    write_parquet(_used(busy), RESOURCE_COLUMNS, folder / "resources.parquet")
    return folder


def _request(number: int, intended_ns: int, acknowledged_ns: int) -> dict[str, Any]:
    return {
        "seq": number, "stream": "load", "route": "POST /probe", "request_id": str(number),
        "tasks": 1, "intended_ns": intended_ns, "sent_ns": intended_ns, "ended_ns": acknowledged_ns, "status": 202,
        "outcome": "acknowledged", "error": None,
    }  # fmt: skip


def _task(number: int, intended_ns: int, acknowledged_ns: int, started_ns: int, ended_ns: int) -> dict[str, Any]:
    done = ended_ns <= HORIZON_NS
    return {
        "task_id": f"{number}/0", "request_id": str(number), "route": "POST /probe", "job": "probe_blocking",
        "position": 0, "request_outcome": "acknowledged", "fate": "done" if done else "pending",
        "n_effects": int(done), "n_journal": int(done), "attempts": int(done), "intended_ns": intended_ns,
        "accepted_ns": acknowledged_ns, "started_ns": started_ns if done else None,
        "ended_ns": ended_ns if done else None, "agreement": "equal", "last_seen": None,
    }  # fmt: skip


def _used(busy: float) -> list[dict[str, Any]]:
    """Return samples every half second, from before the window until after it."""
    return [
        {"t_ns": START_NS + at_ms * MS, "role": role, "pid": pid, "cpu_s": 3 + at_ms / 1_000 * busy / 2,
         "rss_bytes": 10_000_000, "pss_bytes": None}
        for at_ms in range(-500, WINDOW_S * 1_000 + 1_000, 500)
        for pid, role in enumerate(["api", "worker", "postgres"])
    ]  # fmt: skip
