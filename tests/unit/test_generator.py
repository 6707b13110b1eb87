"""The search for the rate up to which the load generator is in time, on generators that are simulated."""

import math
from collections.abc import Callable

import pytest

from lab.generator import Attempt, Bounds, Found, bounds_of_several, generator, processes_to_try, search
from lab.rundir import Placement

BOUNDS = Bounds(lowest=500, highest=32_000, halvings=3)


def attempt(rate: float, lateness_p99_ms: float, failed: int = 0) -> Attempt:
    """Return what came of a rate."""
    return Attempt(rate, round(rate), failed, lateness_p99_ms, 0.5, real_time=False)


class Simulated:
    """A generator that is late above a rate; what it was asked for is kept."""

    def __init__(self, limit: float, of: Callable[[float, bool], Attempt] | None = None) -> None:
        self.rates: list[float] = []
        self._of = of or (lambda rate, late: attempt(rate, 5.0 if late else 0.2))
        self._limit = limit

    def __call__(self, rate: float) -> Attempt:
        self.rates.append(rate)
        return self._of(rate, rate > self._limit)


def rates(found: Found) -> tuple[float | None, float | None]:
    """Return the two rates that were found."""
    in_time, too_fast = found
    return in_time and in_time.rate, too_fast and too_fast.rate


def test_it_finds_the_bracket() -> None:
    """Doubled up to 8,000, then halved three times; what fails is tried twice."""
    simulated = Simulated(limit=6_200)
    assert rates(search(simulated, BOUNDS)) == (6_000, 6_500)
    assert simulated.rates == [500, 1_000, 2_000, 4_000, 8_000, 8_000, 6_000, 7_000, 7_000, 6_500, 6_500]


def test_a_limit_that_is_not_reached_gives_a_lower_bound() -> None:
    """The highest rate is the last that is tried."""
    simulated = Simulated(limit=math.inf)
    assert rates(search(simulated, BOUNDS)) == (32_000, None)
    assert simulated.rates == [500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000]


def test_a_generator_that_is_always_late_has_no_rate() -> None:
    """And nothing is searched between nothing and the lowest."""
    simulated = Simulated(limit=0)
    found = search(simulated, BOUNDS)
    assert rates(found) == (None, 500)
    assert simulated.rates == [500, 500]
    told = generator(1, found)
    assert (told.rate, told.lateness_p99_ms, told.too_fast, told.real_time) == (None, None, 500, None)


def test_requests_that_failed_are_not_in_time() -> None:
    """However punctual those were that were sent."""
    simulated = Simulated(3_000, lambda rate, late: attempt(rate, 0.1, failed=int(late)))
    assert rates(search(simulated, BOUNDS)) == (3_000, 3_250)


@pytest.mark.parametrize(("lateness_ms", "in_time"), [(0.99, True), (1.0, False), (math.inf, False)])
def test_the_limit_is_a_millisecond(lateness_ms: float, in_time: bool) -> None:
    assert attempt(500, lateness_ms).in_time == in_time


def test_a_hiccup_is_not_the_limit() -> None:
    """Each rate fails once; the second attempt decides, and its figure counts."""
    seen: set[float] = set()

    def moody(rate: float, _late: bool) -> Attempt:
        first = rate not in seen
        seen.add(rate)
        return attempt(rate, 9.0 if first else 0.3)

    found = search(Simulated(math.inf, moody), BOUNDS._replace(highest=2_000))
    assert rates(found) == (2_000, None)
    assert found.in_time is not None
    assert found.in_time.lateness_p99_ms == 0.3


def test_several_processes_are_tried_from_where_one_has_ended_or_below_it_on_one_cpu() -> None:
    """Two that take turns on a CPU send less than one alone."""
    one = Placement(contender=[1], generator=[0], pinned=True)
    three = Placement(contender=[3, 4, 5], generator=[0, 1, 2], pinned=True)
    assert (processes_to_try(one), processes_to_try(three)) == ([1, 2], [1, 3])
    alone = generator(1, search(Simulated(6_400), BOUNDS))
    assert alone.rate == 6_000
    assert [bounds_of_several(BOUNDS, alone, where).lowest for where in (one, three)] == [1_500, 6_000]
