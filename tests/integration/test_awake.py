"""What keeps a CPU of a virtual machine awake: it takes turns with nobody, and outlives nobody."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from lab import awake, load
from lab.environment import PROJECT, available_cpus
from lab.errors import LabError
from lab.stacks.supervisor import Supervisor
from tests.support import until

CPU = available_cpus()[0]
KEEPERS = "import subprocess, sys, time; print(subprocess.Popen(sys.argv[1:]).pid, flush=True); time.sleep(600)"

pytestmark = pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="this system has no SCHED_IDLE")


def test_a_keeper_has_stepped_back_on_its_cpu_and_ends_with_whoever_started_it() -> None:
    command = [sys.executable, "-c", KEEPERS, *awake.command(CPU)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout
        keeper = psutil.Process(int(starter.stdout.readline()))
        try:
            assert until(lambda: os.sched_getscheduler(keeper.pid) == os.SCHED_IDLE)
            assert keeper.cpu_affinity() == [CPU]
            used_s = keeper.cpu_times().user
            assert until(lambda: keeper.cpu_times().user > used_s), "it keeps the CPU busy"
        finally:
            starter.kill()
            gone = until(lambda: not keeper.is_running() or keeper.status() == psutil.STATUS_ZOMBIE)
            with suppress(psutil.NoSuchProcess):
                keeper.kill()
    assert gone


@pytest.mark.parametrize("virtual", [True, False])
@pytest.mark.parametrize("status", [0, 1])
def test_while_a_load_runs_its_cpus_are_kept_awake_on_a_virtual_machine_alone(
    virtual: bool, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no longer, however the load ends."""
    monkeypatch.setattr(awake, "under_hypervisor", lambda: virtual)
    seen: list[list[int]] = []
    waits = f"import sys, time; sys.stdin.read(); time.sleep(0.6); sys.exit({status})"
    with Supervisor(tmp_path / "supervisor") as supervisor:

        def tick() -> None:
            children = [supervisor.children.get(f"awake-{cpu}") for cpu in available_cpus()]
            seen.append([child.pid for child in children if child and child.runs()])

        with suppress(LabError):
            load.drive(supervisor, [sys.executable, "-c", waits], available_cpus(), tmp_path / "log", 5, tick)
        keepers = set().union(*seen)
        assert len(keepers) == (len(available_cpus()) if virtual else 0)
        assert not any(psutil.pid_exists(pid) for pid in keepers)


@pytest.mark.parametrize(
    ("cpuinfo", "virtual"),
    [
        ("processor\t: 0\nflags\t\t: fpu hypervisor lahf_lm\n", True),
        ("processor\t: 0\nmodel name\t: hypervisor\nflags\t\t: fpu lahf_lm\n", False),
        (None, False),
    ],
)
def test_a_virtual_machine_is_known_by_its_flags(cpuinfo: str | None, virtual: bool, tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        file.write_text(cpuinfo)
    assert awake.under_hypervisor(file) is virtual
