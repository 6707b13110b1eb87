"""What the generator asks of the scheduler."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os
from pathlib import Path
from loadtests.promptness import be_prompt

os.nice(1)
granted = be_prompt()
slices = [line.split()[-1] for line in Path("/proc/self/sched").read_text().splitlines() if line.startswith("se.slice")]
print(granted, os.sched_getscheduler(0) == os.SCHED_OTHER, os.getpriority(os.PRIO_PROCESS, 0), *slices)
"""


def _kernel() -> tuple[int, int]:
    major, minor = platform.release().split(".")[:2]
    return int(major), int(minor)


@pytest.mark.skipif(not Path("/proc/self/sched").exists() or _kernel() < (6, 12), reason="needs Linux 6.12")
def test_the_kernel_grants_short_slices_and_nothing_else_changes() -> None:
    """As the kernel itself tells it; a process that is nice stays so."""
    said = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout.split()
    assert said == ["True", "True", str(os.getpriority(os.PRIO_PROCESS, 0) + 1), "100000"]
