"""What the generator asks of the scheduler."""

import errno
import os
import subprocess
import sys

import pytest

from loadtests.promptness import be_prompt

PROGRAM = """
import os, resource, sys
from loadtests.promptness import be_prompt

def policy():
    return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK

if sys.argv[1] == "without rights":
    resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
    if os.geteuid() == 0:
        os.setuid(65534)
before = policy()
granted = be_prompt()
child = os.fork()
if not child:
    os._exit(policy())
ordinary = os.SCHED_OTHER if granted else before
print(granted, policy() == os.SCHED_RR, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == ordinary)
"""


@pytest.mark.skipif(not hasattr(os, "sched_setscheduler"), reason="the system has no such policies")
@pytest.mark.parametrize("rights", ["as it is", "without rights"])
def test_it_runs_at_once_where_that_is_granted_and_what_it_starts_does_not(rights: str) -> None:
    """Whether it is granted depends on who asks; without any rights nothing changes, and nothing breaks."""
    program = subprocess.run([sys.executable, "-c", PROGRAM, rights], capture_output=True, text=True, check=True)
    granted, at_once, child_is_ordinary = program.stdout.split()
    assert granted == at_once
    assert child_is_ordinary == "True"
    assert rights == "as it is" or granted == "False"


def test_a_system_without_such_a_policy_leaves_all_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some sandboxes know one policy, and call every other invalid."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "sched_setscheduler", refuse, raising=False)
    assert not be_prompt()
