"""Arrival schedules: what they promise about spacing, order and repetition."""

import statistics
import time
from itertools import pairwise
from random import Random

import gevent
import pytest

from loadtests import arrivals
from loadtests.arrivals import NS_PER_S, constant, poisson, schedule, wait_until
from tests.support import until


def test_poisson_arrivals_are_the_same_on_every_python_and_machine() -> None:
    """Poisson arrivals are the same on every python and machine."""
    first_five = [at_ns for at_ns, _ in zip(poisson(Random("7/arrivals"), 100, 10), range(5), strict=False)]
    assert first_five == [40757145, 53166213, 53933677, 67931690, 71262398]


def test_poisson_arrivals_have_the_rate_and_the_spread_of_a_poisson_process() -> None:
    """Poisson arrivals have the rate and the spread of a poisson process."""
    at_ns = list(poisson(Random(3), 200, 100))
    gaps_s = [(later - earlier) / NS_PER_S for earlier, later in pairwise(at_ns)]
    assert len(at_ns) == pytest.approx(20_000, abs=5 * 20_000**0.5)
    assert statistics.stdev(gaps_s) == pytest.approx(1 / 200, rel=0.05)  # of an exponential: its mean
    assert sum(gap_s < 0.001 for gap_s in gaps_s) / len(gaps_s) == pytest.approx(1 - 2.718281828 ** (-0.2), rel=0.1)


def test_arrivals_lie_within_the_span() -> None:
    """Arrivals lie within the span."""
    for kind in ("poisson", "constant"):
        offsets = [arrival.offset_ns for arrival in schedule(kind, 50, 4, 20, seed=1)]
        assert min(offsets) >= 0
        assert max(offsets) < 4 * NS_PER_S


def test_constant_arrivals_are_evenly_spaced() -> None:
    """Constant arrivals are evenly spaced."""
    at_ns = list(constant(100, 30))
    assert len(at_ns) == 3000
    assert {later - earlier for earlier, later in pairwise(at_ns)} == {10_000_000}


def test_a_schedule_merges_load_and_both_bystanders_in_order_of_time() -> None:
    """A schedule merges load and both bystanders in order of time."""
    arrivals = schedule("poisson", 30, 10, 20, seed=5)
    streams = [arrival.stream for arrival in arrivals]
    assert arrivals == sorted(arrivals)
    assert (streams.count("loop"), streams.count("thread")) == (200, 200)
    assert [a.offset_ns for a in arrivals if a.stream == "load"] == list(poisson(Random("5/arrivals"), 30, 10))


def test_another_seed_draws_other_arrivals() -> None:
    """Another seed draws other arrivals."""
    assert schedule("poisson", 30, 10, 0, seed=5) == schedule("poisson", 30, 10, 0, seed=5)
    assert schedule("poisson", 30, 10, 0, seed=5) != schedule("poisson", 30, 10, 0, seed=6)


def test_waiting_never_ends_early() -> None:
    """Waiting never ends early."""
    for wait_ns in (0, 300_000, 5_000_000):
        until_ns = time.monotonic_ns() + wait_ns
        wait_until(until_ns)
        assert time.monotonic_ns() >= until_ns


def test_who_waits_leaves_the_cpu_to_others_and_is_awake_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It naps in the last millisecond, in which it polls, but not where it might oversleep."""
    naps: list[float] = []
    monkeypatch.setattr(arrivals, "nap", naps.append)
    wait_until(time.monotonic_ns() + arrivals.AWAKE_NS)
    assert not naps

    def napped() -> bool:
        """Wait for longer; whoever loses the CPU meanwhile may find that the time has come."""
        wait_until(time.monotonic_ns() + 100 * arrivals.AWAKE_NS)
        return bool(naps)

    assert until(napped)


def test_the_event_loop_looks_at_its_sockets_between_any_two_arrivals() -> None:
    """Even where arrivals follow each other without a pause, answers that have come get their turn, and their time."""
    polls = 0

    def count() -> None:
        nonlocal polls
        polls += 1

    after_each_poll = gevent.get_hub().loop.check()
    after_each_poll.start(count)
    for _ in range(100):
        wait_until(0)
    after_each_poll.stop()
    after_each_poll.close()
    assert polls >= 90  # by gevent.sleep(0) it would be once
