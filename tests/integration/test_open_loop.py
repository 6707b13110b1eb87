"""The instrument's own test: on a server that stalls, the open loop tells the truth and a closed loop does not."""

import json
import os
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.loadserver import free_port
from tests.support import until

HERE = Path(__file__).parent
PROJECT = HERE.parent.parent
RATE = 100
WINDOW_S = 30
LOCUST = [sys.executable, "-m", "locust", "--headless", "--only-summary", "--loglevel", "WARNING", "-f"]


@pytest.fixture
def stalling(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A stalling server: its URL, and the file in which it notes its stalls."""
    port, stalls = free_port(), tmp_path / "stalls"
    with subprocess.Popen([sys.executable, str(HERE / "stalling_server.py"), str(port), str(stalls)]) as server:
        yield f"http://127.0.0.1:{port}", stalls
        server.terminate()


def p95_and_p99(times_s: list[float]) -> tuple[float, float]:
    """Return the two percentiles that the test is about."""
    cuts = statistics.quantiles(times_s, n=100, method="inclusive")
    return cuts[94], cuts[98]


def exact_times_s(intended_ns: list[int], stalls: Path) -> list[float]:
    """Return what each response time is by the schedule: until the end of the stall it falls into, or nothing."""
    periods = [tuple(map(int, line.split())) for line in stalls.read_text().splitlines()]
    return [max(((end - at) / 1e9 for begin, end in periods if begin <= at < end), default=0.0) for at in intended_ns]


@pytest.mark.alone
def test_the_open_loop_reports_the_stall_that_the_closed_loop_hides(stalling: tuple[str, Path], tmp_path: Path) -> None:
    """The recorder's p95 and p99 are within 2 % of the exact values; constant_throughput's p95 is far off."""
    host, stalls = stalling
    samples, times = tmp_path / "samples.jsonl", tmp_path / "times"
    schedule = ["--rate", str(RATE), "--warmup", "1", "--duration", str(WINDOW_S), "--arrivals", "constant"]
    open_loop = [*LOCUST, str(PROJECT / "loadtests" / "locustfile.py"), "--host", host, "--scenario", "action"]
    closed_loop = [*LOCUST, str(HERE / "closed_loop.py"), "--host", host, "-u", "10", "-r", "10", "-t", f"{WINDOW_S}s"]
    assert until(lambda: _listens(host))
    with (
        subprocess.Popen([*open_loop, *schedule, "--samples", str(samples)], cwd=PROJECT) as open_process,
        subprocess.Popen(closed_loop, cwd=PROJECT, env=os.environ | {"CLOSED_LOOP_TIMES": str(times)}) as closed,
    ):
        assert open_process.wait(60) == 0
        assert closed.wait(60) == 0

    rows = [row for row in map(json.loads, samples.read_text().splitlines()) if row.get("phase") == "window"]
    intended_ns = [row["intended_ns"] for row in rows]
    exact = p95_and_p99(exact_times_s(intended_ns, stalls))
    measured = p95_and_p99([(row["ended_ns"] - row["intended_ns"]) / 1e9 for row in rows])
    closed_p95, _ = p95_and_p99([float(line) for line in times.read_text().split()])

    assert len(rows) == RATE * WINDOW_S
    assert exact == pytest.approx((0.5, 0.9), abs=0.02)  # the stalls were there
    assert measured == pytest.approx(exact, rel=0.02)
    # Its p99 is a matter of luck: about 1 % of its requests, ten users in each of three stalls, notice anything.
    assert closed_p95 < 0.1 * exact[0]


def _listens(host: str) -> bool:
    try:
        socket.create_connection(("127.0.0.1", int(host.rpartition(":")[2])), 1).close()
    except ConnectionRefusedError:
        return False
    return True
