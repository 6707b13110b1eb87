"""The lab's side of the load: the command that puts it on, and what its exit status means."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from lab import load
from lab.environment import PROJECT
from lab.errors import LabError
from lab.stacks.supervisor import Supervisor
from tests.runmaker import plan

SLOW_TO_IMPORT = """
import time
from loadtests.closed_loop import *

times, end = [], time.monotonic() + 1
while time.monotonic() < end:  # and gevent, whose sleep would be another, does nothing
    pass
events.test_start.add_listener(lambda **_: times.append(time.monotonic()))
events.test_stopping.add_listener(lambda **_: print("ran for", time.monotonic() - times[0]))
"""


@pytest.mark.parametrize(("generators", "processes"), [(1, []), (3, ["3"])])
def test_several_generators_are_locust_workers_on_a_port_of_their_own(
    generators: int, processes: list[str], tmp_path: Path
) -> None:
    """The master's and the workers' idea of the port is the same; one generator is Locust as it was."""
    (scenario,) = plan(["inline"], 1).scenarios
    command = load.locust_command(scenario, "http://127.0.0.1:1", 7, tmp_path / "samples", generators=generators)
    options = dict(pairwise(command))
    assert [value for name, value in options.items() if name == "--processes"] == processes
    assert options.get("--master-port") == options.get("--master-bind-port")
    assert ("--master-port" in options) == bool(processes)


def test_a_lost_worker_is_a_matter_of_the_block_and_any_other_failure_ends_the_run(tmp_path: Path) -> None:
    """Status 3 says that a worker was lost, which the last line of the samples tells again."""
    with Supervisor(tmp_path / "supervisor") as supervisor:

        def drive(status: int) -> None:
            command = [sys.executable, "-c", f"raise SystemExit({status})"]
            load.drive(supervisor, command, None, tmp_path / "log", planned_s=5, tick=lambda: None)

        drive(0)
        drive(3)
        with pytest.raises(LabError, match="status 1"):
            drive(1)


def test_a_closed_loop_runs_for_its_time_however_long_its_imports_took(tmp_path: Path) -> None:
    """A load of a second was over before its first request on a busy machine."""
    (locustfile := tmp_path / "slow.py").write_text(SLOW_TO_IMPORT)
    command = load.closed_loop_command("Paced", "http://127.0.0.1:1", 1, tmp_path / "reported.json")
    usual = str(PROJECT / "loadtests" / "closed_loop.py")
    command = [str(locustfile) if part == usual else part for part in command]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    (ran,) = [line for line in done.stdout.splitlines() if line.startswith("ran for")]
    assert float(ran.split()[2]) > 0.99
