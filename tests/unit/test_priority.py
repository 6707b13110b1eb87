"""Stepping back: the lab's own work does, and who asked for it does not."""

import os
import subprocess
import sys

import pytest

from lab.errors import LabError
from lab.priority import stepped_back

SAY_RANK = "import os; print(os.sched_getscheduler(0))"


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="the system has no such policy")
def test_the_work_is_of_the_lowest_rank_and_what_is_started_elsewhere_is_not() -> None:
    """What the work starts itself is: therefore the warden is older, and starts all that is measured."""
    ranks: list[int] = []

    def work() -> None:
        said = subprocess.run([sys.executable, "-c", SAY_RANK], capture_output=True, text=True, check=True).stdout
        ranks.extend([os.sched_getscheduler(0), int(said)])

    before = os.sched_getscheduler(0)
    stepped_back(work)
    assert ranks == [os.SCHED_IDLE, os.SCHED_IDLE]
    assert os.sched_getscheduler(0) == before


def test_what_goes_wrong_in_the_work_is_raised() -> None:
    """As if it had been done here."""

    def fail() -> None:
        raise LabError("It went wrong.")

    with pytest.raises(LabError, match="It went wrong"):
        stepped_back(fail)
