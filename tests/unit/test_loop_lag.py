"""The lag of the generator's event loop: a p99 over time, so that one long hold is not one among many short ones."""

import json
import subprocess
import sys

import pytest

PROBED = """
import gevent, json, sys, time
from loadtests.recorder import LoopLag, wait_exceeded
holds_s = json.loads(sys.argv[1])
probe = LoopLag()
for hold_s in holds_s:
    gevent.sleep(0.2)
    time.sleep(hold_s)
gevent.sleep(0.5)
print(json.dumps([probe.stop(), wait_exceeded([100.0, 20.0], 10.0), wait_exceeded([100.0, 80.0], 60.0)]))
"""


def probed(*holds_s: float) -> tuple[dict[str, float], float, float]:
    """Hold a loop up for so long, one hold after another; return its lag, and two waits of holds that are given."""
    command = [sys.executable, "-c", PROBED, json.dumps(holds_s)]
    seen: tuple[dict[str, float], float, float] = json.loads(subprocess.check_output(command, timeout=60))
    return seen


def test_one_hold_of_a_second_shows_in_the_p99_of_a_block() -> None:
    """It is one probe in dozens, and yet more than half of all the time."""
    lag, _, _ = probed(1.0)
    assert lag["loop_lag_p99_ms"] > 500
    assert lag["loop_lag_max_ms"] >= 990


@pytest.mark.parametrize(("which", "expected_ms"), [(1, 90.0), (2, 60.0)])
def test_who_comes_during_a_hold_waits_for_the_rest_of_it(which: int, expected_ms: float) -> None:
    """Longer than 90 ms, for the first 10 ms of 100; longer than 60 ms, for the first 40 of 100 and 20 of 80 ms."""
    assert probed()[which] == expected_ms
