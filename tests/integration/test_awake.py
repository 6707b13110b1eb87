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
STARTS_A_KEEPER = f"""
import os, subprocess, time
from lab import awake
print(subprocess.Popen(awake.command({CPU}, os.getpid())).pid, flush=True)
time.sleep(600)
"""
# In place of a load: it is over once somebody has looked what runs beside it.
LOOKED_AT = """
import sys, time
from pathlib import Path
while not Path(sys.argv[1]).exists():
    time.sleep(0.02)
sys.exit({status})
"""

pytestmark = pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="this system has no SCHED_IDLE")


def test_a_keeper_has_stepped_back_on_its_cpu_and_ends_with_whoever_started_it() -> None:
    command = [sys.executable, "-c", STARTS_A_KEEPER]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout
        keeper = psutil.Process(int(starter.stdout.readline()))
        try:
            assert until(lambda: keeper.cpu_affinity() == [CPU])
            assert until(lambda: os.sched_getscheduler(keeper.pid) == os.SCHED_IDLE)
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
    monkeypatch.setattr(awake, "is_due", lambda: virtual)
    seen: list[list[int]] = []
    (locust := tmp_path / "locust.py").write_text(LOOKED_AT.format(status=status))
    with Supervisor(tmp_path / "supervisor") as supervisor:

        def tick() -> None:
            children = [supervisor.children.get(f"awake-{cpu}") for cpu in available_cpus()]
            seen.append([child.pid for child in children if child and child.runs()])
            (tmp_path / "looked at").touch()

        with suppress(LabError):
            load.drive(
                supervisor,
                [sys.executable, str(locust), str(tmp_path / "looked at")],
                available_cpus(),
                tmp_path / "log",
                5,
                tick,
            )
        keepers = set().union(*seen)
        assert len(keepers) == (len(available_cpus()) if virtual else 0)
        assert not any(psutil.pid_exists(pid) for pid in keepers)


VIRTUAL = "processor\t: 0\nflags\t\t: fpu hypervisor lahf_lm\n"
REAL = "processor\t: 0\nmodel name\t: hypervisor\nflags\t\t: fpu lahf_lm\n"


@pytest.mark.parametrize(
    ("cpuinfo", "quota", "rank", "due"),
    [
        (VIRTUAL, None, "SCHED_OTHER", True),
        (VIRTUAL, "max 100000\n", "SCHED_OTHER", True),
        (VIRTUAL, "150000 100000\n", "SCHED_OTHER", False),
        (VIRTUAL, None, "SCHED_IDLE", False),
        (REAL, None, "SCHED_OTHER", False),
        (None, None, "SCHED_OTHER", False),
    ],
)
def test_it_is_due_on_a_virtual_machine_whose_cpu_time_is_not_limited(
    cpuinfo: str | None, quota: str | None, rank: str, due: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor where who asks is itself of the rank of what would keep them awake."""
    monkeypatch.setattr(os, "sched_getscheduler", lambda _: getattr(os, rank))
    files = tmp_path / "cpuinfo", tmp_path / "cpu.max"
    for file, text in zip(files, (cpuinfo, quota), strict=True):
        if text is not None:
            file.write_text(text)
    assert awake.is_due(*files) is due
