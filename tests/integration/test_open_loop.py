"""The instrument's own test: on a server that stalls, the open loop tells the truth and a closed loop does not."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import UUID

import pytest

from lab.environment import PROJECT, available_cpus, place
from lab.known_servers import fate
from lab.load import closed_loop_command
from lab.stacks.health import check_health
from lab.stacks.supervisor import StackError
from tests.loadserver import free_port
from tests.support import until

WINDOW_S = 30
# The three stalls meet the arrivals at three phases. At one and the same, ten milliseconds apart, a single request that
# reaches the server in a stall but was meant for just before it would move the percentiles by all of ten.
RATE = 100 + 1 / 30
PLACEMENT = place(available_cpus())
LOCUST = [sys.executable, "-m", "locust", "--headless", "--only-summary", "--loglevel", "WARNING", "-f"]


@pytest.fixture
def stalling() -> Iterator[str]:
    """The URL of a server that stalls for 1 s in every 10, on CPUs of its own as everything that is measured."""
    host = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "lab.known_servers", "stall", str(port)]
    with started(command, PLACEMENT.contender) as server:
        assert until(lambda: is_up(host))
        yield host
        server.terminate()


def started(command: Sequence[str], cpus: list[int]) -> subprocess.Popen[bytes]:
    """Start a process of the project on these CPUs, where processes can be pinned."""
    process = subprocess.Popen(command, cwd=PROJECT)
    if PLACEMENT.pinned:
        os.sched_setaffinity(process.pid, cpus)
    return process


def is_up(host: str) -> bool:
    """Return whether a server answers."""
    try:
        check_health(f"{host}/health")
    except (StackError, OSError):
        return False
    return True


def p95_and_p99(times_s: list[float]) -> tuple[float, float]:
    """Return the two percentiles that the test is about."""
    cuts = statistics.quantiles(times_s, n=100, method="inclusive")
    return cuts[94], cuts[98]


@pytest.mark.alone
def test_the_open_loop_reports_the_stall_that_the_closed_loop_hides(stalling: str, tmp_path: Path) -> None:
    """The recorder's p95 and p99 are within 2 % of the exact values; constant_throughput's p95 is far off."""
    samples, reported, requests = (tmp_path / name for name in ("samples.jsonl", "reported.json", "requests.json"))
    requests.write_text('[{"method": "GET", "path": "/work", "weight": 1, "tasks": 0}]')
    schedule = ["--rate", str(RATE), "--warmup", "1", "--duration", str(WINDOW_S), "--arrivals", "constant"]
    open_loop = [*LOCUST, str(PROJECT / "loadtests" / "locustfile.py"), "--host", stalling, "--scenario", "requests"]
    open_loop += [*schedule, "--requests", str(requests), "--samples", str(samples)]
    with (
        started(open_loop, PLACEMENT.generator) as open_process,
        started(closed_loop_command("Paced", stalling, WINDOW_S, reported), PLACEMENT.generator) as closed_process,
    ):
        assert open_process.wait(60) == 0
        assert closed_process.wait(60) == 0

    rows = [row for row in map(json.loads, samples.read_text().splitlines()) if row.get("phase") == "window"]
    exact = p95_and_p99([fate("stall", UUID(row["request_id"]), row["intended_ns"] / 1e9).after_s for row in rows])
    measured = p95_and_p99([(row["ended_ns"] - row["intended_ns"]) / 1e9 for row in rows])
    closed_p95_ms = json.loads(reported.read_text())["latency"]["p95_ms"]

    assert len(rows) == round(RATE * WINDOW_S)
    assert exact == pytest.approx((0.5, 0.9), abs=0.02)  # the stalls were there
    assert measured == pytest.approx(exact, rel=0.02)
    # Its p99 is a matter of luck: about 1 % of its requests, ten users in each of three stalls, notice anything.
    assert closed_p95_ms < 100 * exact[0]
