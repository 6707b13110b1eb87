"""The `lab` command's errors: one sentence, the documented exit status, no traceback, nothing left behind."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lab.environment import PROJECT, available_cpus


def run_lab(*arguments: str | Path, prefix: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `lab` to its end, as a user would."""
    command = [*(prefix or []), sys.executable, "-m", "lab", *map(str, arguments)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["compare", "--contender", "django"], "django"),
        (["compare", "--contender", "inline", "--contender", "inline"], "inline"),
        (["compare", "--scenario", "black-friday"], "black-friday"),
        (["compare", "--fault", "earthquake"], "earthquake"),
        (["faults", "--fault", "earthquake"], "earthquake"),
        (["faults", "--grace", "0"], "--grace 0"),
        (["faults", "--grace", "nan"], "--grace nan"),
        (["faults", "--grace", "601"], "--grace 601"),
        (["faults", "--grace", "1", "--fault", "api-kill"], "deploy"),
        (["faults", "--grace", "0.5", "--stack", "compose"], "whole seconds"),
        (["compare", "--rounds", "0"], "--rounds"),
        (["compare", "--sped", "5"], "--sped"),
        (["compare", "--stack", "cloud"], "cloud"),
        (["report", "no-such-run"], "no-such-run"),
        (["resume", "no-such-run"], "no-such-run"),
        (["task", "no-such-run", "6f1c1f4e-5c0f-4d7b-9a35-3f0b0b7a7c11"], "no-such-run"),
        (["task", "no-such-run", "42"], "ID"),
    ],
)
def test_bad_usage_is_named_and_ends_with_2(arguments: list[str], named: str) -> None:
    """Whatever does not exist is named in a sentence, and nothing is started."""
    done = run_lab(*arguments)
    assert done.returncode == 2
    assert named in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_run_json_that_is_not_ours_is_named(tmp_path: Path) -> None:
    """A broken run.json is a bad argument, not a crash."""
    (tmp_path / "run.json").write_text('{"schema_version": 1')
    done = run_lab("report", tmp_path)
    assert done.returncode == 2
    assert "run.json" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_disk_that_cannot_be_written_to_is_named() -> None:
    """The run directory cannot be made there: one sentence, and nothing is started."""
    done = run_lab("compare", "--quick", "--out", "/proc/runs")
    assert done.returncode == 1
    assert "/proc/runs" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin processes to CPUs")
def test_one_cpu_is_not_enough() -> None:
    """Load and contender on one CPU would measure each other; the lab says so and measures nothing."""
    done = run_lab("compare", "--quick", prefix=["taskset", "--cpu-list", str(available_cpus()[0])])
    assert done.returncode == 1
    assert "CPU" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    """`lab up` cannot have a port that is taken: it says which, and ends what it had started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run_lab("up", "--contender", "inline", "--web-port", port, "--out", tmp_path)
    assert done.returncode == 1
    assert port in done.stderr
    assert "Traceback" not in done.stderr


def test_list_names_contenders_scenarios_and_faults() -> None:
    """What can be asked for is listed."""
    done = run_lab("list")
    assert done.returncode == 0
    for name in ("inline", "celery-threads", "mixed", "deploy"):
        assert name in done.stdout
